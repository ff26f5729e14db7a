use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn series(n: u32) -> Series {
    let gpu = Gpu { uuid: format!("GPU-{}", n / 3), index: n.checked_sub(1), hostname: "node".into(), ..Gpu::default() };
    let labels = if n.is_multiple_of(2) { vec![("job".into(), "dcgm".into()), ("n".into(), n.to_string())] } else { vec![] };
    let pod = if n.is_multiple_of(5) { "p".repeat(n as usize) } else { String::new() };
    Series { metric: format!("M{}", n % 3), gpu, pod, labels, ..Series::default() }
}

fn identity(n: u32) -> u128 {
    u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

/// What an identity says: some are two ways to write one series, and some none.
fn said(n: u32) -> Result<Series, Reason> {
    if n % 17 == 3 { Err(Reason::NoUuid) } else { Ok(series(n % 20)) }
}

const MUCH: usize = 1 << 30;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever makes room for whatever: an index given stands for its series until the rows are released, and a book that is kept beside
    /// the table never has another series under it.
    #[test]
    fn a_row_has_its_series_and_no_other(
        rows in prop::collection::vec((0u32..40, 0u8..10), 1..300), most in 1usize..25, bytes in prop_oneof![Just(MUCH), 100usize..5000],
    ) {
        let mut table = Table::new(Bounds { series: most, bytes });
        let (mut book, mut batch) = (HashMap::<u32, Series>::new(), Vec::<(u32, Series)>::new());
        let mut close = |table: &mut Table, batch: &mut Vec<(u32, Series)>, in_hand: bool| {
            let hand = if in_hand { batch.pop() } else { None };
            for dropped in table.release(in_hand) {
                book.remove(&dropped);
            }
            for (index, series) in batch.drain(..) {
                assert_eq!(book.entry(index).or_insert_with(|| series.clone()), &series);
            }
            batch.extend(hand);
        };
        for (n, then) in rows {
            let resolved = match table.resolve(identity(n), || said(n)) {
                Some(resolved) => resolved,
                None => {
                    close(&mut table, &mut batch, false);
                    table.resolve(identity(n), || said(n)).expect("there is room")
                }
            };
            prop_assert_eq!(resolved.outcome.map(|index| table.series(index)), said(n));
            let metric = said(n).ok().and_then(|series| metric(&series.metric));
            prop_assert_eq!(resolved.metric.map(|metric| metric.name), metric.map(|metric| metric.name));
            if let Ok(index) = resolved.outcome {
                batch.push((index, series(n % 20)));
            }
            for (index, series) in &batch {
                prop_assert_eq!(&table.series(*index), series);
            }
            prop_assert!(table.identities.len() <= most);
            match then {
                0 => close(&mut table, &mut batch, false),
                1 => close(&mut table, &mut batch, resolved.outcome.is_ok()),
                _ => {}
            }
        }
    }
}

/// Resolves rows, `batch` of them at a time; how many had to be read.
fn read(table: &mut Table, rows: impl Iterator<Item = u32>, batch: usize) -> usize {
    let mut read = 0;
    for (at, n) in rows.enumerate() {
        let resolved = table.resolve(identity(n), || {
            read += 1;
            Ok(series(n))
        });
        assert!(resolved.is_some(), "there are more places than a batch has rows");
        if at % batch == batch - 1 {
            table.release(false);
        }
    }
    read
}

#[test]
fn a_fleet_a_little_larger_than_the_table_is_not_read_again_at_each_scrape() {
    let mut table = Table::new(Bounds { series: 1000, bytes: MUCH });
    let first = read(&mut table, 0..1200, 100);
    assert_eq!(first, 1200);
    let read = read(&mut table, (0..20).flat_map(|_| 0..1200), 100);
    assert!(read < 20 * 1200 / 2, "{read} of 24,000 rows had their series read");
}

#[test]
fn series_that_do_not_come_any_more_make_room_first() {
    let mut table = Table::new(Bounds { series: 1000, bytes: MUCH });
    // At each scrape the same 600 series, and ten that come once and never again.
    let scrapes = |scrapes: std::ops::Range<u32>| scrapes.flat_map(|i| (0..600).chain(1000 + 10 * i..1010 + 10 * i));
    read(&mut table, scrapes(0..50), 100);
    let read = read(&mut table, scrapes(50..150), 100);
    assert!((1000..1400).contains(&read), "{read} of 61,000 rows had their series read, 1,000 of which were new");
}

#[test]
fn what_series_share_is_kept_once() {
    let mut table = Table::new(Bounds { series: MUCH, bytes: MUCH });
    for n in 0..20_000 {
        let gpu = Gpu {
            uuid: format!("GPU-{:036}", n / 10),
            hostname: format!("host-{}", n / 80),
            model: "NVIDIA H100 80GB HBM3".into(),
            ..Gpu::default()
        };
        let labels = vec![("job".to_owned(), "a rather long text ".repeat(20))];
        let one = Series { metric: format!("DCGM_FI_DEV_{}", n % 10), gpu, labels, ..Series::default() };
        table.resolve(identity(n), || Ok(one)).expect("there is room");
    }
    assert_eq!(table.len(), 20_000);
    assert!(table.bytes() < 20_000 * 120, "{} bytes", table.bytes());
}

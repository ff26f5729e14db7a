//! Files: how they are found, and what becomes of those that are watched.

use std::io::Write;
use std::path::{Path, PathBuf};

use telemetry::source::follow::{Change, FileState};
use telemetry::source::{CsvReader, Fill, Found, Input, Options, Seek, SourceError, Watch, discover};

use super::{HEADER, drain, open, row};

/// The paths that a watch gives.
fn scan(watch: &mut Watch) -> Vec<PathBuf> {
    paths(&watch.scan().expect("looks"))
}

fn paths(found: &[Found]) -> Vec<PathBuf> {
    found.iter().map(|found| found.input.path().expect("a file").to_owned()).collect()
}

fn state(path: &Path) -> FileState {
    FileState::of(&std::fs::metadata(path).expect("is there"))
}

#[tokio::test]
async fn files_that_shrink_or_are_rewritten_are_noticed() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("a.csv");
    let rows: String = (0..100).map(|i| row(i, "M", "1")).collect();
    std::fs::write(&path, format!("{HEADER}\n{rows}")).expect("written");
    let options = Options { block_bytes: 4096, ..Options::default() };
    let mut once = CsvReader::open(&Input::File(path.clone()), false, options).await.expect("opens");
    let mut followed = open(&path, true).await;
    assert_eq!(once.fill().await.expect("reads"), Fill::Data);
    let seen = drain(&mut followed).await.expect("readable");
    assert_eq!(seen.len(), 100);
    assert_eq!(followed.look().await.expect("looks"), Change::None);

    std::fs::write(&path, format!("{HEADER}\n")).expect("written");
    let (_, error) = drain(&mut once).await.expect_err("it shrank");
    assert!(matches!(error, SourceError::Shrunk { .. }), "{error}");
    assert_eq!(followed.look().await.expect("looks"), Change::Restarted);
    assert_eq!(open(&path, false).await.seek(Some(&seen[50].after)).await.expect("seeks"), Seek::Shorter);

    let others: String = (0..200).map(|i| row(i, "N", "1")).collect();
    std::fs::write(&path, format!("{HEADER}\n{others}")).expect("written");
    assert_eq!(followed.look().await.expect("looks"), Change::Restarted, "longer, but not the same");
    assert_eq!(open(&path, false).await.seek(Some(&seen[50].after)).await.expect("seeks"), Seek::Mismatch);
}

#[test]
fn a_file_that_was_gone_before_it_was_opened_is_found_where_it_comes_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("a.csv"), "x").expect("written");
    let mut watch = Watch::new(vec![directory.path().display().to_string()], None);
    let given = watch.scan().expect("looks");
    assert_eq!(paths(&given), [at("a.csv")]);
    std::fs::rename(at("a.csv"), at("elsewhere")).expect("renamed");
    assert!(watch.scan().expect("looks").is_empty());
    watch.close(&given[0], None);
    // The same inode, as the system gives it to new files too.
    std::fs::rename(at("elsewhere"), at("b.csv")).expect("renamed");
    let given = watch.scan().expect("looks");
    assert_eq!(paths(&given), [at("b.csv")]);
    // And where another file stood at its path when it was opened.
    std::fs::write(at("c.csv"), "y").expect("written");
    watch.close(&given[0], Some(state(&at("c.csv"))));
    assert_eq!(scan(&mut watch), [at("b.csv")]);
}

#[tokio::test]
async fn a_rotated_file_is_read_to_its_end_and_the_new_one_found() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("a.csv");
    std::fs::write(&path, format!("{HEADER}\n{}", row(1, "M", "1"))).expect("written");
    let mut watch = Watch::new(vec![directory.path().display().to_string()], None);
    let first = watch.scan().expect("scans");
    assert_eq!(paths(&first), std::slice::from_ref(&path));
    let mut reader = open(&path, true).await;
    assert_eq!(drain(&mut reader).await.expect("readable").len(), 1);

    let renamed = directory.path().join("a-1.csv");
    std::fs::rename(&path, &renamed).expect("renamed");
    assert_eq!(reader.look().await.expect("looks"), Change::Removed);
    let late = row(2, "M", "2") + row(3, "M", "3").trim_end();
    std::fs::OpenOptions::new().append(true).open(&renamed).expect("opens").write_all(late.as_bytes()).expect("written");
    assert_eq!(reader.look().await.expect("looks"), Change::Grown);
    std::fs::write(&path, format!("{HEADER}\n{}", row(4, "M", "4"))).expect("written");
    assert_eq!(scan(&mut watch), [path], "only the new one");

    assert_eq!(drain(&mut reader).await.expect("readable").len(), 1, "the last line may still be written");
    assert_eq!(reader.look().await.expect("looks"), Change::Replaced);
    reader.finish();
    assert_eq!(drain(&mut reader).await.expect("readable").len(), 1);
    watch.close(&first[0], reader.state().await.expect("says"));
    assert!(scan(&mut watch).is_empty(), "nothing is read twice, and the new one is read already");
    std::fs::OpenOptions::new().append(true).open(&renamed).expect("opens").write_all(b"\n").expect("written");
    assert_eq!(scan(&mut watch), [renamed], "what changes afterwards is looked at again");
}

#[tokio::test]
async fn inputs_are_found_or_it_is_said_why_not() {
    let directory = tempfile::tempdir().expect("directory");
    let at = |name: &str| directory.path().join(name).display().to_string();
    for name in ["b.csv", "a.csv.gz", "c.txt", "d.CSV"] {
        std::fs::write(at(name), "x").expect("written");
    }
    std::fs::create_dir(at("empty")).expect("created");
    let names = |patterns: &[String]| -> Vec<String> {
        let file = |input: &Input| input.path().map_or("-".to_owned(), |p| p.file_name().expect("a name").display().to_string());
        discover(patterns, None).expect("found").iter().map(file).collect()
    };
    assert_eq!(names(&[at("")]), ["a.csv.gz", "b.csv", "d.CSV"]);
    assert_eq!(names(&[at("*.csv"), at("c.txt"), at("b.csv"), "-".to_owned()]), ["b.csv", "c.txt", "-"]);
    for (pattern, word) in [
        (at("none.csv"), "check the path"),
        (at("empty"), "is an empty directory"),
        (at("*.parquet"), "matches no file"),
        (at("[.csv"), "pattern"),
    ] {
        let message = discover(std::slice::from_ref(&pattern), None).expect_err("an error").to_string();
        assert!(message.contains(&pattern) && message.contains(word), "{message}");
    }
    assert!(scan(&mut Watch::new(vec![at("none.csv"), at("empty")], None)).is_empty());
}

#[tokio::test]
async fn a_file_that_is_closed_is_found_where_it_is_renamed_and_given_when_it_differs() {
    let directory = tempfile::tempdir().expect("directory");
    let at = |name: &str| directory.path().join(name);
    let append = |name: &str, text: &str| {
        let mut file = std::fs::OpenOptions::new().append(true).open(at(name)).expect("opens");
        file.write_all(text.as_bytes()).expect("written");
    };
    std::fs::write(at("a.csv"), format!("{HEADER}\n{}", row(1, "M", "1"))).expect("written");
    let mut watch = Watch::new(vec![directory.path().display().to_string()], None);
    let given = watch.scan().expect("looks");
    let mut reader = open(&at("a.csv"), true).await;
    assert_eq!(drain(&mut reader).await.expect("readable").len(), 1);
    assert_eq!(reader.look().await.expect("looks"), Change::None);
    // What comes between the last look and the end of reading is not in the state.
    let read = reader.state_as_read().await.expect("says").expect("a file");
    assert_eq!(read, state(&at("a.csv")));
    append("a.csv", &row(2, "M", "2"));
    assert_eq!(reader.state_as_read().await.expect("says"), Some(read));
    watch.close_quiet(&given[0], read);
    assert!(watch.is_closed(read.id));
    let given = watch.scan().expect("looks");
    assert_eq!(paths(&given), [at("a.csv")], "it has grown since");
    assert!(!watch.is_closed(read.id));

    watch.close_quiet(&given[0], state(&at("a.csv")));
    std::fs::rename(at("a.csv"), at("a.csv.1")).expect("renamed");
    assert!(scan(&mut watch).is_empty(), "it is as it was");
    assert!(watch.is_closed(read.id), "and is known");
    std::fs::rename(at("a.csv.1"), at("a.csv.2")).expect("renamed");
    append("a.csv.2", &row(3, "M", "3"));
    let given = watch.scan().expect("looks");
    assert_eq!(paths(&given), [at("a.csv.2")], "no pattern matches that name");

    watch.close_quiet(&given[0], state(&at("a.csv.2")));
    watch.give_again(read.id);
    let given = watch.scan().expect("looks");
    assert_eq!(paths(&given), [at("a.csv.2")], "it is wanted, as it was");
    watch.close_quiet(&given[0], state(&at("a.csv.2")));
    std::fs::remove_file(at("a.csv.2")).expect("removed");
    assert!(scan(&mut watch).is_empty());
    assert!(!watch.is_closed(read.id), "what is gone is forgotten");
}

#[tokio::test]
async fn what_was_learnt_of_a_file_is_taken_over_where_it_is_the_same() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("a.csv");
    let other = "value,timestamp,metric,uuid\n1,1752871360,M,G\n";
    std::fs::write(&path, format!("{HEADER}\n{}{other}", row(1, "M", "1"))).expect("written");
    let mut first = open(&path, true).await;
    let before = drain(&mut first).await.expect("readable");
    assert_eq!(before.len(), 2);
    let (learnt, at) = (first.learnt(), first.position());
    drop(first);
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("opens");
    file.write_all(b"2,1752871361,M,G\n").expect("written");
    let mut second = open(&path, true).await;
    second.recall(learnt.clone());
    assert_eq!(second.seek(Some(&at)).await.expect("seeks"), Seek::Ok);
    let more = drain(&mut second).await.expect("readable");
    assert!(more.len() == 1 && more[0].row == 2 && more[0].what.is_ok(), "by the header in force: {more:?}");
    std::fs::write(&path, format!("{HEADER}\n{}", row(7, "M", "1").repeat(9))).expect("written");
    let mut third = open(&path, true).await;
    third.recall(learnt);
    assert_ne!(third.seek(Some(&at)).await.expect("seeks"), Seek::Ok, "another content");
}

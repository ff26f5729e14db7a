//! Draws the lists on a screen.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as TextLine, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Sparkline, Table};

use super::keys::{HELP, Keys};
use super::lists::{Line, Mark, Tab, View};

/// Height of a screen from which the partitions are shown above the other lists.
const TALL: u16 = 30;
/// Width of the curve of rates.
const CURVE_WIDTH: u16 = 24;
/// Width of a screen from which the curve is shown.
const CURVE_MIN_SCREEN: u16 = 110;
/// Maximum width of all columns except the last.
const MAX_COLUMN: u16 = 32;
/// On a narrow screen, a column gets at most this part of the width: a quarter.
const MAX_COLUMN_SHARE: u16 = 4;
/// Minimum width at which the last column is shown.
const MIN_LAST_COLUMN: u16 = 12;
/// Space between columns.
const GAP: u16 = 2;

/// Draws everything; `log_line` is the last line of the log.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, keys: &mut Keys, log_line: Option<&str>, now: Instant) {
    let area = frame.area();
    let connections = view.connections(now);
    let partitions = u16::try_from(view.queue.partitions.len()).unwrap_or(u16::MAX);
    // A third of the screen at most for partitions and connections each; the rest is for the selected list.
    let above = if area.height >= TALL && keys.tab != Tab::Partitions { (partitions + 2).min(area.height / 3) } else { 0 };
    let tops = u16::try_from(connections.len()).unwrap_or(u16::MAX).min(area.height / 3);
    let [title, summary, lines, upper, lower, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(tops),
        Constraint::Length(above),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);

    frame.render_widget(Paragraph::new(heading(view, keys)), title);
    let (rates, mark) = view.summary();
    let columns = if area.width >= CURVE_MIN_SCREEN { CURVE_WIDTH } else { 0 };
    let [words, curve] = Layout::horizontal([Constraint::Min(0), Constraint::Length(columns)]).areas(summary);
    frame.render_widget(Paragraph::new(rates).style(style(mark)), words);
    let history = &view.queue.history;
    let shown = &history[history.len().saturating_sub(columns.into())..];
    frame.render_widget(Sparkline::default().data(shown).style(Style::new().fg(Color::Cyan)), curve);
    let connections: Vec<TextLine<'_>> =
        connections.into_iter().map(|(line, mark)| TextLine::styled(line, style(mark))).collect();
    frame.render_widget(Paragraph::new(connections), lines);

    if above > 0 {
        list(frame, upper, Tab::Partitions, 0, &view.list(Tab::Partitions, 0), |_, _| 0);
    }
    let shown = view.list(keys.tab, keys.sort());
    let (tab, sort) = (keys.tab, keys.sort());
    list(frame, lower, tab, sort, &shown, |fits, lines| keys.scroll(fits, lines));
    let footer = log_line.map_or_else(|| "q quit  Tab list  s sort  p pause  ? help".to_owned(), str::to_owned);
    frame.render_widget(Paragraph::new(footer).style(Style::new().add_modifier(Modifier::DIM)), foot);
    if keys.help {
        help(frame, area);
    }
}

fn heading(view: &View, keys: &Keys) -> TextLine<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut spans = vec![Span::styled("telemetry top", bold)];
    if keys.is_paused() {
        spans.push(Span::styled("  PAUSED", style(Mark::Notable)));
    }
    spans.push(Span::raw(format!("  group {}  ", view.queue.group)));
    for (number, tab) in (1..).zip(Tab::ALL) {
        let chosen = if tab == keys.tab { bold.add_modifier(Modifier::REVERSED) } else { Style::new() };
        spans.push(Span::styled(format!(" {number} {} ", tab.title()), chosen));
    }
    spans.push(Span::raw(format!("  every {}", humantime::format_duration(view.interval))));
    TextLine::from(spans)
}

/// Draws a list; `scroll` gets the number of lines that fit and the number of all lines, and returns the first line to show.
fn list(frame: &mut Frame<'_>, area: Rect, tab: Tab, sort: usize, lines: &[Line], scroll: impl FnOnce(usize, usize) -> usize) {
    let fits = usize::from(area.height.saturating_sub(2));
    let first = scroll(fits, lines.len());
    let shown = &lines[first.min(lines.len())..(first + fits).min(lines.len())];
    let place = match lines.len() {
        0 => "none".to_owned(),
        all if all <= fits => all.to_string(),
        all => format!("{}–{} of {all}", first + 1, first + shown.len()),
    };
    let sorted = tab.sorts()[sort % tab.sorts().len()];
    let widths = widths(tab, shown, area.width);
    let cell = |text: String, right: bool| {
        let text = Text::from(text);
        Cell::from(if right { text.right_aligned() } else { text })
    };
    let is_number: Vec<bool> =
        (0..tab.head().len()).map(|c| shown.first().is_some_and(|line| line.cells[c].is_number())).collect();
    let head = tab.head().iter().enumerate().take(widths.len()).map(|(column, name)| {
        let style = Style::new().add_modifier(Modifier::BOLD);
        let style = if column == sorted { style.add_modifier(Modifier::UNDERLINED) } else { style };
        cell((*name).to_owned(), is_number[column]).style(style)
    });
    let rows = shown.iter().map(|line| {
        let cells = line.cells.iter().zip(&widths).map(|(one, width)| cell(shorten(&one.text, *width), one.is_number()));
        Row::new(cells).style(style(line.mark))
    });
    let block = Block::new().borders(Borders::TOP).title(format!(" {} ({place}) ", tab.title()));
    let constraints: Vec<Constraint> = widths.iter().map(|width| Constraint::Length(*width)).collect();
    let table = Table::new(rows, constraints).header(Row::new(head)).block(block).column_spacing(GAP);
    frame.render_widget(table, area);
}

/// The widths of the columns that fit, each as wide as its content; the last one takes the rest.
fn widths(tab: Tab, lines: &[Line], room: u16) -> Vec<u16> {
    let most = usize::from(MAX_COLUMN.min(room / MAX_COLUMN_SHARE));
    let mut widths: Vec<u16> = Vec::new();
    let mut used = 0;
    for (column, name) in tab.head().iter().enumerate() {
        let cells = lines.iter().map(|line| line.cells[column].text.chars().count());
        let widest = cells.chain([name.chars().count()]).max().unwrap_or(0);
        let last = column + 1 == tab.head().len();
        let width = u16::try_from(if last { widest } else { widest.min(most) }).unwrap_or(room);
        let gap = if column == 0 { 0 } else { GAP };
        if used + gap + width > room && column > 0 {
            // The last column may be cut off, because part of its text (a reason) is still useful.
            if last && used + gap + MIN_LAST_COLUMN <= room {
                widths.push(room - used - gap);
            }
            break;
        }
        used += gap + width;
        widths.push(width);
    }
    widths
}

/// Shortens a text that does not fit: paths and ids lose their beginning, because the end tells more; other text loses its end.
fn shorten(text: &str, width: u16) -> String {
    let (length, width) = (text.chars().count(), usize::from(width));
    if length <= width {
        return text.to_owned();
    }
    if text.contains(' ') {
        return text.chars().take(width.saturating_sub(1)).chain(['…']).collect();
    }
    std::iter::once('…').chain(text.chars().skip(length + 1 - width.max(1))).collect()
}

fn style(mark: Mark) -> Style {
    match mark {
        Mark::Plain => Style::new(),
        Mark::Notable => Style::new().fg(Color::Yellow),
        Mark::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<TextLine<'_>> = HELP.iter().map(|(key, does)| TextLine::from(format!(" {key:<20} {does}"))).collect();
    let (width, height) = (66.min(area.width), (HELP.len() as u16 + 2).min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" Keys ")), place);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};

    use super::*;
    use crate::model::{Digest, GroupId, Partitions, SourceId};
    use crate::roles::top::Connection;
    use crate::roles::top::queue::{NodeSeen, PartitionSeen, QueueSeen, QueuedSource};
    use crate::roles::top::store::{StoreSeen, StoredSource};
    use crate::transport::redis::Node;
    use crate::transport::{Backlog, ConsumerState, GroupState, PartitionState};

    const ADDRESS: &str = "redis.example.test:6379";

    fn source(n: u128) -> SourceId {
        SourceId::from_digest(Digest::from_u128(n))
    }

    fn partition(entries: u64, idle_ms: u64) -> PartitionSeen {
        let backlog = Backlog { entries, pending: entries / 2, oldest_ms: 75_000 };
        let latest = vec![ConsumerState { name: "collector-1".to_owned(), pending: entries / 2, idle_ms }];
        let group = |name: &str, consumers: u64, latest| GroupState { name: GroupId::named(name), backlog, consumers, latest };
        PartitionSeen {
            address: ADDRESS.to_owned(),
            state: Some(PartitionState {
                backlog,
                entries,
                groups: vec![group("archive", 0, Vec::new()), group("collectors", 1, latest)],
                held_by: (entries > 0).then(|| GroupId::named("archive")),
                ..PartitionState::default()
            }),
            ..PartitionSeen::default()
        }
    }

    fn view(now: Instant, sources: u128, redis: Result<Duration, String>) -> View {
        let mut connection = Connection::new(now);
        connection.note(redis, now);
        let gib = 1 << 30;
        let node = Node {
            address: ADDRESS.to_owned(),
            round_trip: Duration::from_millis(2),
            used_memory: gib,
            max_memory: 2 * gib,
            policy: "noeviction".to_owned(),
        };
        let queue = QueueSeen {
            group: GroupId::named("collectors"),
            count: Partitions::new(2).expect("not 0"),
            partitions: vec![partition(0, 500), partition(1_234, 90_000)],
            nodes: BTreeMap::from([(
                ADDRESS.to_owned(),
                NodeSeen {
                    connection: connection.clone(),
                    node: Some(node),
                    partitions: Partitions::new(2).expect("not 0").iter().collect(),
                },
            )]),
            sources: (0..sources).map(|n| (source(n), QueuedSource::fixed(1_000_000 + n as u64, 250.0, now))).collect(),
            complete: true,
            published: Some(12_345.6),
            committed: None,
            history: vec![1, 2, 3],
        };
        let stored = StoredSource {
            name: "gpus.csv".to_owned(),
            cluster: "edge-a".to_owned(),
            settled: 999_000,
            ..StoredSource::default()
        };
        connection.note(Ok(Duration::from_millis(3)), now);
        let store = StoreSeen {
            endpoint: "db.example.test:5432/telemetry".to_owned(),
            connection,
            problem: None,
            at: Some(now),
            sources: HashMap::from([(source(0), stored)]),
            rate: Some(11_000.0),
            dead_letters: 2,
        };
        View::new(queue, Some(store), Duration::from_secs(2))
    }

    fn screen(view: &View, keys: &mut Keys, (width, height): (u16, u16), now: Instant) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it draws into memory");
        terminal.draw(|frame| draw(frame, view, keys, None, now)).expect("it draws into memory");
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn press(keys: &mut Keys, code: KeyCode) {
        keys.press(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }

    #[track_caller]
    fn has(screen: &[String], words: &[&str]) {
        let found = screen.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line has {words:?}:\n{}", screen.join("\n"));
    }

    #[test]
    fn a_screen_says_rates_lag_connections_and_sources() {
        let now = Instant::now();
        let (view, mut keys) = (view(now, 60, Ok(Duration::from_millis(2))), Keys::default());
        let shown = screen(&view, &mut keys, (150, 40), now + Duration::from_secs(5));
        has(
            &shown,
            &["published 12,346 rows/s", "stored 11,000 rows/s", "1,234 batches, the oldest for 1 min 15 s", "dead letters 2"],
        );
        has(&shown, &["Redis redis.example.test:6379", "up for 5 s, 2.0 ms", "1.0 GiB of 2.0 GiB (50 %)"]);
        has(&shown, &["PostgreSQL db.example.test:5432/telemetry", "up for 5 s, 3.0 ms"]);
        has(&shown, &["1,234", "617", "held by archive"]);
        has(&shown, &["Sources (1–29 of 60)"]);
        // The source that is furthest behind comes first; the source that the store knows has a name.
        let first = shown.iter().position(|line| line.contains("behind")).expect("a head") + 1;
        assert!(shown[first].contains("1,000,059") && shown[first].contains("250"), "{}", shown[first]);
        press(&mut keys, KeyCode::End);
        let shown = screen(&view, &mut keys, (150, 40), now);
        has(&shown, &["Sources (32–60 of 60)"]);
        has(&shown, &["edge-a", "gpus.csv", "1,000"]);
        press(&mut keys, KeyCode::Char('4'));
        has(&screen(&view, &mut keys, (150, 40), now), &["archive", "no active consumer; holds batches in partition 1"]);
        press(&mut keys, KeyCode::Char('3'));
        has(&screen(&view, &mut keys, (150, 40), now), &["collector-1", "617", "1 min 30 s"]);
    }

    #[test]
    fn a_server_that_is_away_is_said_with_the_reason() {
        let now = Instant::now();
        let view = view(now, 0, Err("connection refused".to_owned()));
        let shown = screen(&view, &mut Keys::default(), (100, 24), now + Duration::from_secs(61));
        has(&shown, &["Redis redis.example.test:6379", "DOWN for 1 min 1 s: connection refused"]);
        has(&shown, &["Sources (1)"]);
    }

    #[test]
    fn a_narrow_screen_shows_what_matters_and_the_smallest_does_not_panic() {
        let now = Instant::now();
        let (view, mut keys) = (view(now, 60, Ok(Duration::ZERO)), Keys::default());
        press(&mut keys, KeyCode::Char('p'));
        let shown = screen(&view, &mut keys, (80, 24), now);
        has(&shown, &["telemetry top  PAUSED"]);
        has(&shown, &["cluster", "source", "behind", "published", "rows/s"]);
        press(&mut keys, KeyCode::Char('?'));
        has(&screen(&view, &mut keys, (80, 24), now), &["p, Space", "pause"]);
        for size in [(1, 1), (3, 2), (20, 5), (40, 80), (300, 3), (0, 0)] {
            for _ in Tab::ALL {
                screen(&view, &mut keys, size, now);
                press(&mut keys, KeyCode::Tab);
            }
        }
    }

    #[test]
    fn words_lose_their_end_and_paths_their_beginning() {
        assert_eq!(shorten("/very/long/path.csv", 9), "…path.csv");
        assert_eq!(shorten("no answer in time", 10), "no answer…");
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(shorten("abc", 1), "…");
        assert_eq!(shorten("abc", 0), "…");
    }
}

//! A small HTTP client: what a test asks, and all of what it got.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// It must be a problem of this status, with these words. Returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, words: &[&str]) -> serde_json::Value {
        let said = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{said}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{said}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` is not in {said}");
        }
        problem
    }
}

/// GET with further header lines; `None` while nobody answers.
pub fn get(port: u16, path: &str, headers: &[&str]) -> Option<Answer> {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    send(port, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n"))
}

/// Sends these bytes and reads to the end.
pub fn send(port: u16, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    // It may close before it has read everything: what it said counts.
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes)
}

/// GET, reading as fast as it comes: how many bytes that were, and whether it ended as it should.
pub fn drain(port: u16, path: &str, headers: &[&str]) -> (usize, bool) {
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n").unwrap();
    let (mut buffer, mut all, mut end) = (vec![0; 1 << 18], 0, Vec::new());
    loop {
        let n = stream.read(&mut buffer).unwrap_or(0);
        if n == 0 {
            return (all, end.ends_with(b"0\r\n\r\n"));
        }
        all += n;
        end.extend_from_slice(&buffer[n.saturating_sub(8)..n]);
        end.drain(..end.len().saturating_sub(8));
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let rest = &bytes[end + 4..];
    let body = if chunked { unchunk(rest)? } else { rest.to_vec() };
    Some(Answer { status, headers, body })
}

/// `None` where it was cut off.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

//! Real servers: started on free ports, and spoken to over RESP2.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::redis::Version;
use crate::redis::reply::{Bytes, Reply, bytes};

/// How long a server has to begin.
const PATIENCE: Duration = Duration::from_secs(20);
/// Names of servers that are looked for.
const NAMES: [&str; 2] = ["redis-server", "valkey-server"];

/// The servers that are on this machine: those that `TELEMETRY_MODEL_SERVERS` names (paths, as in PATH), and those in PATH.
#[must_use]
pub fn servers() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let named = std::env::var_os("TELEMETRY_MODEL_SERVERS").unwrap_or_default();
    found.extend(std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()));
    for name in NAMES {
        let path = std::env::var_os("PATH").unwrap_or_default();
        found.extend(std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file()));
    }
    let mut known = Vec::new();
    found.retain(|path| {
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let new = !known.contains(&real);
        known.push(real);
        new
    });
    found
}

/// A server that ends with this.
pub struct Server {
    child: Child,
    client: Client,
    /// Its name and version.
    pub name: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is to end, whatever it is doing.
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

impl Server {
    /// Starts a server that keeps nothing, in a folder.
    ///
    /// # Errors
    /// A program that does not start, or does not answer.
    pub fn start(program: &Path, folder: &Path) -> std::io::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut child = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let begun = Instant::now();
        let client = loop {
            match Client::connect(port) {
                Ok(client) => break client,
                Err(error) if begun.elapsed() > PATIENCE || child.try_wait()?.is_some() => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut server = Self { child, client, name: String::new() };
        let info = server.run(&["INFO", "server"])?;
        let info = info.text().unwrap_or_default();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        server.name = match field("valkey_version:") {
            Some(version) => format!("Valkey {version}"),
            None => format!("Redis {}", field("redis_version:").unwrap_or_default()),
        };
        Ok(server)
    }

    /// Sends a command and reads its answer.
    ///
    /// # Errors
    /// A connection that ended.
    pub fn call(&mut self, args: &[Bytes]) -> std::io::Result<Reply> {
        self.client.call(args)
    }

    /// The same with texts.
    ///
    /// # Errors
    /// A connection that ended.
    pub fn run(&mut self, args: &[&str]) -> std::io::Result<Reply> {
        self.call(&args.iter().map(bytes).collect::<Vec<_>>())
    }

    /// In what this server differs from others, found by asking it.
    ///
    /// # Errors
    /// A connection that ended.
    pub fn version(&mut self) -> std::io::Result<Version> {
        self.run(&["FLUSHALL"])?;
        self.run(&["XGROUP", "CREATE", "s", "g", "0", "MKSTREAM", "ENTRIESREAD", "0"])?;
        self.run(&["XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"])?;
        let consumers = self.run(&["XINFO", "CONSUMERS", "s", "g"])?.parts().len();
        self.run(&["XADD", "s", "1-0", "f", "v"])?;
        self.run(&["XADD", "s", "2-0", "f", "v"])?;
        self.run(&["XTRIM", "s", "MINID", "=", "2-0"])?;
        let groups = self.run(&["XINFO", "GROUPS", "s"])?;
        let group = groups.parts().first().map(Reply::parts).unwrap_or_default();
        let lag = group.chunks_exact(2).find(|pair| pair[0].text() == Some("lag")).and_then(|pair| pair[1].int());
        self.run(&["FLUSHALL"])?;
        Ok(Version { consumers_at_once: consumers > 0, counts_what_is_left: lag == Some(1) })
    }
}

/// A connection that waits for each answer.
struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { reader: BufReader::new(stream) };
        match client.call(&[bytes("PING")])? {
            Reply::Status(_) => Ok(client),
            other => Err(std::io::Error::other(format!("{other:?}"))),
        }
    }

    fn call(&mut self, args: &[Bytes]) -> std::io::Result<Reply> {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend(format!("${}\r\n", arg.len()).as_bytes());
            request.extend_from_slice(arg);
            request.extend_from_slice(b"\r\n");
        }
        self.reader.get_mut().write_all(&request)?;
        self.answer()
    }

    fn answer(&mut self) -> std::io::Result<Reply> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let line = line.trim_end_matches("\r\n");
        let strange = || std::io::Error::other(format!("the server answers {line:?}"));
        let (kind, rest) = line.split_at_checked(1).ok_or_else(strange)?;
        let number = || rest.parse::<i64>().map_err(|_| strange());
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(number()?),
            "$" => match usize::try_from(number()?) {
                Ok(length) => {
                    let mut text = vec![0; length + 2];
                    self.reader.read_exact(&mut text)?;
                    text.truncate(length);
                    Reply::bulk(text)
                }
                Err(_) => Reply::Nil,
            },
            "*" => match usize::try_from(number()?) {
                Ok(length) => Reply::Array((0..length).map(|_| self.answer()).collect::<Result<_, _>>()?),
                Err(_) => Reply::Nil,
            },
            _ => return Err(strange()),
        })
    }
}

//! Puts the built page (web/dist) into the binary: writes the table that `src/http/ui.rs` includes. Where nothing was built, the
//! table is empty and the server shows a placeholder. npm is never called from here: `make web` does that.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use sha2::{Digest, Sha256};

/// What a file's name says of its content. A kind that is not here stops the build: a wrong type would break the page in silence.
const TYPES: &[(&str, &str)] = &[
    ("css", "text/css; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain; charset=utf-8"),
    ("woff2", "font/woff2"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let web = root.join("web");
    let dist = web.join("dist");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    if dist.join("index.html").is_file() {
        println!("cargo::rerun-if-changed=web/dist");
        collect(&dist, &mut files)?;
        files.sort();
    } else if web.is_dir() {
        // Not web/dist: cargo runs this again at every build when a path that it shall watch is missing.
        println!("cargo::rerun-if-changed=web");
    }
    let mut table = String::from("&[\n");
    for file in &files {
        table.push_str(&entry(&dist, file)?);
    }
    table.push_str("]\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("assets.rs"), table)?;
    Ok(())
}

/// The files below a directory, hidden ones left out.
fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// One line of the table: the path it is served at, and the asset.
fn entry(dist: &Path, file: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let name = file.strip_prefix(dist)?.to_str().ok_or_else(|| format!("{}: the name is not UTF-8", file.display()))?;
    let path = format!("/{}", name.replace('\\', "/"));
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let (_, content_type) = TYPES
        .iter()
        .find(|(known, _)| *known == extension)
        .ok_or_else(|| format!("{}: no content type is known for .{extension}; add it to TYPES in build.rs", file.display()))?;
    let mut etag = String::new();
    for byte in &Sha256::digest(fs::read(file)?)[..16] {
        write!(etag, "{byte:02x}")?;
    }
    let etag = format!("\"{etag}\"");
    // Vite puts the content's hash into the names of what it writes to assets/.
    let immutable = path.starts_with("/assets/");
    Ok(format!(
        "    ({path:?}, Asset {{ content_type: {content_type:?}, bytes: include_bytes!({:?}), etag: {etag:?}, immutable: {immutable} }}),\n",
        file.display().to_string(),
    ))
}

//! Puts files that the server shows into the binary, compressed: the built page (web/dist) and Swagger UI (from the archive in a
//! package). Writes a table of each, which `src/http/ui.rs` and `src/http/openapi.rs` include. Where no page was built, its table is empty
//! and the server shows a placeholder. npm is never called from here: `make web` does that.

use std::fmt::Write as _;
use std::io::{Cursor, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// What a file's name says of its content. A kind that is not here stops the build: a wrong type would break the page in silence.
const TYPES: &[(&str, &str)] = &[
    // LICENSE, NOTICE
    ("", "text/plain; charset=utf-8"),
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

/// The files of Swagger UI that are served: those its index.html names, and what its licence asks to go with them. The
/// initializer is our own: it names the description.
const SWAGGER_UI: &[&str] = &[
    "LICENSE",
    "NOTICE",
    "dist/favicon-16x16.png",
    "dist/favicon-32x32.png",
    "dist/index.css",
    "dist/index.html",
    "dist/swagger-ui-bundle.js",
    "dist/swagger-ui-standalone-preset.js",
    "dist/swagger-ui.css",
];
const INITIALIZER: &str = "src/http/swagger-initializer.js";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={INITIALIZER}");
    write_table(&out, "page", page(&root.join("web"))?)?;
    let mut files = swagger_ui()?;
    files.push(("/docs/swagger-initializer.js".to_owned(), fs::read(root.join(INITIALIZER))?));
    write_table(&out, "swagger_ui", files)
}

/// The files of the built page, by the path each is served at.
fn page(web: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let dist = web.join("dist");
    let mut found = Vec::new();
    if dist.join("index.html").is_file() {
        println!("cargo::rerun-if-changed=web/dist");
        collect(&dist, &mut found)?;
    } else if web.is_dir() {
        // Not web/dist: cargo runs this again at every build when a path that it shall watch is missing.
        println!("cargo::rerun-if-changed=web");
    }
    let mut files = Vec::new();
    for file in found {
        let name = file.strip_prefix(&dist)?.to_str().ok_or_else(|| format!("{}: the name is not UTF-8", file.display()))?;
        files.push((format!("/{}", name.replace('\\', "/")), fs::read(&file)?));
    }
    Ok(files)
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

/// The files of Swagger UI, by the path each is served at.
fn swagger_ui() -> Result<Vec<(String, Vec<u8>)>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED))?;
    // All is below one directory, whose name has the version in it.
    let first = archive.file_names().next().ok_or("the archive of Swagger UI is empty")??;
    let (top, _) = first.split_once('/').ok_or("the archive of Swagger UI has no directory")?;
    let top = top.to_owned();
    let mut files = Vec::new();
    for name in SWAGGER_UI {
        let mut content = Vec::new();
        let mut file = archive.by_name(&format!("{top}/{name}")).map_err(|error| format!("Swagger UI's {name}: {error}"))?;
        file.read_to_end(&mut content)?;
        files.push((format!("/docs/{}", name.trim_start_matches("dist/")), content));
    }
    Ok(files)
}

/// Writes the table NAME.rs, sorted by path, and the files that it includes.
fn write_table(out: &Path, name: &str, mut files: Vec<(String, Vec<u8>)>) -> Result<()> {
    files.sort();
    let directory = out.join(name);
    fs::create_dir_all(&directory)?;
    let mut table = String::from("&[\n");
    for (at, (path, content)) in files.iter().enumerate() {
        let file = directory.join(at.to_string());
        table.push_str(&entry(path, content, &file)?);
    }
    table.push_str("]\n");
    Ok(fs::write(out.join(format!("{name}.rs")), table)?)
}

/// Writes a file's content, compressed where that makes it smaller, and returns its line of the table: the path it is served at, and
/// the asset.
fn entry(path: &str, content: &[u8], file: &Path) -> Result<String> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let (_, content_type) = TYPES
        .iter()
        .find(|(known, _)| *known == extension)
        .ok_or_else(|| format!("{path}: no content type is known for .{extension}; add it to TYPES in build.rs"))?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    let packed = encoder.finish()?;
    let (form, bytes) = if packed.len() < content.len() { ("Gzip", packed.as_slice()) } else { ("Plain", content) };
    fs::write(file, bytes)?;
    let mut digest = String::new();
    for byte in &Sha256::digest(content)[..16] {
        write!(digest, "{byte:02x}")?;
    }
    // A compressed answer is another representation, so it has another strong tag.
    let (etag, etag_gzip) = (format!("\"{digest}\""), format!("\"{digest}-gzip\""));
    // Vite puts the content's hash into the names of what it writes to assets/.
    let immutable = path.starts_with("/assets/");
    Ok(format!(
        "    ({path:?}, Asset {{ content_type: {content_type:?}, content: Content::{form}(include_bytes!({:?})), etag: {etag:?}, \
         etag_gzip: {etag_gzip:?}, immutable: {immutable} }}),\n",
        file.display().to_string(),
    ))
}

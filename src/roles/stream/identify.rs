//! Which source a content is: the registry in the queue finds a file that was smaller, elsewhere, or called otherwise.

use crate::model::{Digest, FamilyId, SourceId};
use crate::source::identity::KnownContent;
use crate::source::{CsvReader, SourceError};
use crate::transport::{Identity, Publisher, TransportError};

/// A content's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identified {
    pub(super) source: SourceId,
    pub(super) family: FamilyId,
    /// What the registry has for it; `None` for sources that are not in the registry (`--source-id`, rounds of a loop).
    pub(super) registered: Option<Identity>,
}

/// Why a content could not be identified.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unidentified {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Queue(#[from] TransportError),
}

fn known(identities: &[Identity]) -> Vec<KnownContent> {
    identities.iter().map(|i| KnownContent { length: i.length, prefix: i.prefix, source: i.source }).collect()
}

fn identity(known: KnownContent) -> Identity {
    Identity { length: known.length, prefix: known.prefix, source: known.source }
}

/// Finds a content in the registry, or puts it there. Only before its first row was taken.
pub(super) async fn identify(
    publisher: &dyn Publisher,
    reader: &mut CsvReader,
    cluster: &str,
) -> Result<Identified, Unidentified> {
    let beginning = reader.beginning(cluster).await?;
    let family = beginning.first_record;
    // As if nothing were known: whoever is wrong is told what is, in one round trip.
    let mut seen = Vec::new();
    loop {
        if let Some(found) = reader.recognise(&known(&seen)).await? {
            return Ok(Identified { source: found.source, family, registered: Some(identity(found)) });
        }
        let new = identity(beginning.fresh);
        match publisher.register(family, &seen, new).await? {
            Ok(()) => return Ok(Identified { source: new.source, family, registered: Some(new) }),
            Err(now) => seen = now,
        }
    }
}

/// The content begins like a registered one and goes on otherwise: it becomes a source of its own, told apart by a longer beginning.
pub(super) async fn fork(
    publisher: &dyn Publisher,
    reader: &CsvReader,
    cluster: &str,
    from: Identified,
    differs_before: u64,
) -> Result<Identified, Unidentified> {
    let content = reader.fork(cluster, from.family, differs_before).await?;
    // A content that is cut off, or that goes on within a line, may begin just as the one it parts from was registered.
    let forked = Digest::of_parts(&[b"fork", &from.source.to_bytes(), &content.source.to_bytes()]);
    let source = SourceId::from_digest(forked).with_partition_of(from.family);
    let new = Identity { source, ..identity(content) };
    put(publisher, from.family, new).await?;
    Ok(Identified { source, family: from.family, registered: Some(new) })
}

/// Puts a source back where the registry has lost it (a Redis that was flushed), so that a restart finds it under the same id.
pub(super) async fn register_again(publisher: &dyn Publisher, identified: Identified) -> Result<(), TransportError> {
    match identified.registered {
        Some(own) => put(publisher, identified.family, own).await,
        None => Ok(()),
    }
}

/// Adds an entry to the registry, unless it is there.
async fn put(publisher: &dyn Publisher, family: FamilyId, entry: Identity) -> Result<(), TransportError> {
    let mut seen = publisher.identities(family).await?;
    while !seen.contains(&entry) {
        match publisher.register(family, &seen, entry).await? {
            Ok(()) => break,
            Err(now) => seen = now,
        }
    }
    Ok(())
}

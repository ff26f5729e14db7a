//! The mark of the store that a group commits to, in each partition, and its generation: which is another one whenever everything is set
//! back, so that a mark that is on its way then is not written.

use fred::types::Value;
use futures_util::future::join_all;

use super::malformed::{KeyKind, quoted, shown};
use super::{RedisTransport, reply, script};
use crate::model::{GroupId, Partition};
use crate::transport::{Result, StoreMark, TransportError};

/// The fields of `meta` that say which store a group commits to.
pub(super) struct MarkFields {
    /// Has the store's id.
    pub(super) mark: String,
    /// Has the generation.
    pub(super) generation: String,
}

impl MarkFields {
    /// Those of a group.
    pub(super) fn of(group: &GroupId) -> Self {
        Self { mark: format!("store:{group}"), generation: format!("generation:{group}") }
    }

    /// A generation that nobody has seen.
    pub(super) fn draw_generation() -> String {
        uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
    }
}

impl RedisTransport {
    /// What every partition says; `None` of those whose node is away, as long as others are there.
    pub(super) async fn look_at_marks(&self) -> Result<Vec<(Partition, Option<StoreMark>)>> {
        let fields = &MarkFields::of(self.group());
        let asked = self.shared.config.partitions.iter().map(|partition| async move {
            let args = vec![fields.mark.as_str().into(), fields.generation.as_str().into(), "".into(), "".into()];
            (partition, self.run_mark(partition, fields, args).await)
        });
        some_of(join_all(asked).await)
    }

    /// Writes the mark of a store where its generation is still the one that was seen; what stands there now. Partitions whose node is
    /// away are left out, as long as others are there.
    pub(super) async fn write_marks(
        &self,
        store: &str,
        partitions: &[(Partition, Option<String>)],
    ) -> Result<Vec<(Partition, StoreMark)>> {
        let fields = &MarkFields::of(self.group());
        let asked = partitions.iter().map(|(partition, generation)| async move {
            let seen = generation.as_deref().unwrap_or_default();
            let args = vec![fields.mark.as_str().into(), fields.generation.as_str().into(), store.into(), seen.into()];
            (*partition, self.run_mark(*partition, fields, args).await)
        });
        let marks = some_of(join_all(asked).await)?;
        Ok(marks.into_iter().filter_map(|(partition, mark)| Some((partition, mark?))).collect())
    }

    /// Forgets which store a group commits to.
    ///
    /// # Errors
    /// As every call.
    pub async fn forget_store(&self, group: &GroupId) -> Result<()> {
        let MarkFields { mark, generation } = MarkFields::of(group);
        for partition in self.shared.config.partitions {
            let args = vec![self.shared.keys.meta(partition).into(), mark.as_str().into(), generation.as_str().into()];
            self.link(partition)?.get().await?.call("HDEL", args).await?;
        }
        Ok(())
    }

    async fn run_mark(&self, partition: Partition, fields: &MarkFields, args: Vec<Value>) -> Result<StoreMark> {
        let keys = vec![self.shared.keys.meta(partition)];
        match self.link(partition)?.get().await?.run(&script::MARK, keys, args).await {
            // What stands there instead of a hash says nothing, and takes nothing.
            Err(TransportError::Blocked { .. }) => Ok(StoreMark::default()),
            answer => {
                let answer = reply::list(answer?);
                let [store, generation] = answer.as_slice() else { return Err(reply::unexpected("the mark of a store")) };
                Ok(StoreMark {
                    store: self.mark_in(partition, MARK, &fields.mark, store),
                    generation: self.mark_in(partition, GENERATION, &fields.generation, generation),
                })
            }
        }
    }

    /// A mark or its generation as it stands in Redis. A malformed one says nothing: the store that is there goes on, and takes its place.
    fn mark_in(&self, partition: Partition, what: &str, field: &str, value: &Value) -> Option<String> {
        let mark = mark(value);
        if mark.is_none() && !value.is_null() {
            let key = self.shared.keys.meta(partition);
            let which = format!("{what} in the field {} of {key}", quoted(field.as_bytes()));
            self.shared.malformed.note(KeyKind::Store, &which, &shown(reply::raw(value)), &mark_todo(what, &key, field));
        }
        mark
    }
}

/// What messages call a mark.
pub(super) const MARK: &str = "the mark of the store";
/// What messages call its generation.
pub(super) const GENERATION: &str = "the generation of the store's mark";

/// What was answered. What is away is `None`, as long as others are there.
fn some_of(answers: Vec<(Partition, Result<StoreMark>)>) -> Result<Vec<(Partition, Option<StoreMark>)>> {
    let (mut found, mut away) = (Vec::new(), None);
    for (partition, answer) in answers {
        match answer {
            Ok(mark) => found.push((partition, Some(mark))),
            Err(error) if error.is_transient() => {
                found.push((partition, None));
                away = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match away {
        Some(error) if found.iter().all(|(_, mark)| mark.is_none()) => Err(error),
        _ => Ok(found),
    }
}

/// The mark of a store, or its generation; `None` where it is not one.
pub(super) fn mark(value: &Value) -> Option<String> {
    reply::exact::<uuid::Uuid>(value).map(|mark| mark.to_string())
}

/// What to do about one that is malformed.
pub(super) fn mark_todo(what: &str, key: &str, field: &str) -> String {
    let command = format!("HDEL {key} {}", quoted(field.as_bytes()));
    if what == MARK { format!("{command}; or start a collector, which puts the mark of its store there") } else { command }
}

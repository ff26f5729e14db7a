//! Series and GPUs: from what dictionaries say to the ids that chunks carry.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::connections::SeriesIds;
use super::error::Result;
use crate::batch::Dictionary;
use crate::model::{Gpu, GpuId, Series, SeriesId, catalogue_name};
use crate::store::Incoming;
use crate::store::chunk::{Ids, Resolved};
use crate::store::text::clean;

/// Series whose ids are kept; beyond that they are looked up again.
const KEPT: usize = 200_000;

/// The ids of every dictionary of every batch of a group; new ones are registered, within the transaction.
pub(super) fn resolve(connection: &Connection, known: &mut SeriesIds, group: &[Incoming]) -> Result<Vec<Vec<Resolved>>> {
    if known.len() > KEPT {
        known.clear();
    }
    group
        .iter()
        .map(|incoming| {
            let cluster = &incoming.batch().header.cluster;
            incoming.dictionaries().iter().map(|dictionary| of_dictionary(connection, known, cluster, dictionary)).collect()
        })
        .collect()
}

fn of_dictionary(connection: &Connection, known: &mut SeriesIds, cluster: &str, dictionary: &Dictionary) -> Result<Resolved> {
    dictionary
        .iter()
        .map(|series| {
            let key = series.key(cluster).to_u128();
            if let Some(ids) = known.get(&key) {
                return Ok(*ids);
            }
            let ids = find_or_add(connection, cluster, &series)?;
            known.insert(key, ids);
            Ok(ids)
        })
        .collect()
}

/// Finds a series under whichever name of its metric it is there; a new one is added under the catalogue's.
fn find_or_add(connection: &Connection, cluster: &str, series: &Series) -> Result<Ids> {
    for key in series.keys(cluster) {
        let found = connection
            .prepare_cached("SELECT id, gpu_id FROM series WHERE key = ?1")?
            .query_row([&key.to_bytes()[..]], |row| Ok(Ids { series: row.get(0)?, gpu: row.get(1)? }))
            .optional()?;
        if let Some(ids) = found {
            return Ok(ids);
        }
    }
    let metric = catalogue_name(&series.metric);
    let key = Series { metric: metric.to_owned(), ..series.clone() }.key(cluster).to_bytes();
    let gpu = gpu(connection, cluster, &series.gpu)?;
    let labels = (!series.labels.is_empty()).then(|| {
        let pairs = series.labels.iter().map(|(name, value)| (clean(name).into_owned(), clean(value).into_owned().into()));
        serde_json::Value::Object(pairs.collect()).to_string()
    });
    connection
        .prepare_cached(
            "INSERT INTO series (key, gpu_id, metric, namespace, pod, container, labels) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            &key[..],
            gpu,
            clean(metric),
            clean(&series.namespace),
            clean(&series.pod),
            clean(&series.container),
            labels
        ])?;
    Ok(Ids { series: SeriesId::from_store(connection.last_insert_rowid()), gpu })
}

fn gpu(connection: &Connection, cluster: &str, gpu: &Gpu) -> Result<GpuId> {
    let key = gpu.key(cluster).to_bytes();
    let found =
        connection.prepare_cached("SELECT id FROM gpu WHERE key = ?1")?.query_row([&key[..]], |row| row.get(0)).optional()?;
    if let Some(id) = found {
        return Ok(id);
    }
    // As in PostgreSQL: an index that its int cannot hold is none of a real GPU; the key still tells such GPUs apart.
    let index = gpu.index.and_then(|index| i32::try_from(index).ok());
    connection
        .prepare_cached(
            "INSERT INTO gpu (key, cluster, uuid, hostname, gpu_index, device, model, driver_version, pci_bus_id, mig_profile, mig_instance) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            &key[..],
            clean(cluster),
            clean(&gpu.uuid),
            clean(&gpu.hostname),
            index,
            clean(&gpu.device),
            clean(&gpu.model),
            clean(&gpu.driver_version),
            clean(&gpu.pci_bus_id),
            clean(&gpu.mig_profile),
            clean(&gpu.mig_instance)
        ])?;
    Ok(GpuId::from_store(connection.last_insert_rowid()))
}

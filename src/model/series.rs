//! A series: one metric of one GPU (or MIG slice) as one workload used it.

use super::{Digest, names_of};

/// The GPU behind a series, as its export describes it. Attributes are part of the identity: a GPU that moves to another host
/// or gets another driver is a new row, and history keeps what was true then.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Gpu {
    /// `GPU-…`: the identity of the board.
    pub uuid: String,
    /// The host's name; empty where the export has none.
    pub hostname: String,
    /// The index on its host.
    pub index: Option<u32>,
    /// The device's name, such as `nvidia0`.
    pub device: String,
    /// The model's name.
    pub model: String,
    /// The driver's version, from the other labels.
    pub driver_version: String,
    /// The PCI bus id, from the other labels.
    pub pci_bus_id: String,
    /// The MIG profile, such as `1g.10gb`; empty without MIG.
    pub mig_profile: String,
    /// The MIG instance's id; empty without MIG.
    pub mig_instance: String,
}

/// One series.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Series {
    /// The metric's name, as the export has it: one of the names of the metric.
    pub metric: String,
    /// The GPU.
    pub gpu: Gpu,
    /// Kubernetes namespace of the workload; empty = none.
    pub namespace: String,
    /// Pod of the workload; empty = none.
    pub pod: String,
    /// Container of the workload; empty = none.
    pub container: String,
    /// Every other label, sorted by name, each name once.
    pub labels: Vec<(String, String)>,
}

impl Gpu {
    /// How many bytes its texts have.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        [
            &self.uuid,
            &self.hostname,
            &self.device,
            &self.model,
            &self.driver_version,
            &self.pci_bus_id,
            &self.mig_profile,
            &self.mig_instance,
        ]
        .iter()
        .map(|text| text.len())
        .sum()
    }

    /// The identity of the GPU in a cluster.
    #[must_use]
    pub fn key(&self, cluster: &str) -> Digest {
        let index = self.index.map(|i| i.to_string()).unwrap_or_default();
        Digest::of_parts(
            &[
                cluster,
                &self.uuid,
                &self.hostname,
                &index,
                &self.device,
                &self.model,
                &self.driver_version,
                &self.pci_bus_id,
                &self.mig_profile,
                &self.mig_instance,
            ]
            .map(str::as_bytes),
        )
    }
}

impl Series {
    /// How many bytes its texts have, those of its GPU included.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let own = [&self.metric, &self.namespace, &self.pod, &self.container].iter().map(|text| text.len()).sum::<usize>();
        let labels: usize = self.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.gpu.text_bytes() + own + labels
    }

    /// The identity of the series in a cluster, under the name by which its metric came.
    #[must_use]
    pub fn key(&self, cluster: &str) -> Digest {
        self.key_under(cluster, &self.metric)
    }

    /// The identity of the series under each name of its metric: first the one by which it came, then the catalogue's. Where a store has
    /// it under one of them, it is that series.
    #[must_use]
    pub fn keys(&self, cluster: &str) -> Vec<Digest> {
        let others = names_of(&self.metric).iter().filter(|name| **name != self.metric);
        std::iter::once(self.metric.as_str()).chain(others.copied()).map(|name| self.key_under(cluster, name)).collect()
    }

    fn key_under(&self, cluster: &str, metric: &str) -> Digest {
        let gpu = self.gpu.key(cluster).to_bytes();
        let mut parts: Vec<&[u8]> =
            vec![&gpu, metric.as_bytes(), self.namespace.as_bytes(), self.pod.as_bytes(), self.container.as_bytes()];
        for (name, value) in &self.labels {
            parts.push(name.as_bytes());
            parts.push(value.as_bytes());
        }
        Digest::of_parts(&parts)
    }
}

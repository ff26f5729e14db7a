//! The DCGM metric catalogue: what dcgm-exporter's shipped field lists export, with unit, kind and plausible range.

use super::names::catalogue_name;

/// How a metric behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Goes up and down.
    Gauge,
    /// Only grows until the GPU is reset.
    Counter,
}

/// What is known of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name, as dcgm-exporter has it.
    pub name: &'static str,
    /// Unit, as it may follow a value; empty for counts, ratios, states and masks.
    pub unit: &'static str,
    /// What it says.
    pub description: &'static str,
    /// Gauge or counter.
    pub kind: MetricKind,
    /// Plausible values, both bounds included; outside is rejected as `out_of_range`.
    pub range: (f64, f64),
}

const PERCENT: (f64, f64) = (0.0, 100.0);
/// A fan may turn faster than what its percentage is a share of.
const FAN: (f64, f64) = (0.0, 200.0);
const RATIO: (f64, f64) = (0.0, 1.0);
const TEMPERATURE: (f64, f64) = (0.0, 150.0);
const POWER: (f64, f64) = (0.0, 5000.0);
const POSITIVE: (f64, f64) = (0.0, f64::MAX);

const fn gauge(name: &'static str, unit: &'static str, range: (f64, f64), description: &'static str) -> Metric {
    Metric { name, unit, description, kind: MetricKind::Gauge, range }
}

const fn counter(name: &'static str, unit: &'static str, range: (f64, f64), description: &'static str) -> Metric {
    Metric { name, unit, description, kind: MetricKind::Counter, range }
}

/// Sorted by name: [`metric`] searches it by halves.
static CATALOGUE: [Metric; 83] = [
    gauge("DCGM_FI_DEV_BAR1_FREE", "MiB", POSITIVE, "BAR1 address space that is free"),
    gauge("DCGM_FI_DEV_BAR1_USED", "MiB", POSITIVE, "BAR1 address space that is mapped"),
    counter("DCGM_FI_DEV_BOARD_LIMIT_VIOLATION", "us", POSITIVE, "Time during which the board's limit held the clocks down"),
    gauge("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "", POSITIVE, "Bit mask of what holds the clocks down at present"),
    gauge("DCGM_FI_DEV_COMPUTE_MODE", "", POSITIVE, "Compute mode: 0 shared, 2 prohibited, 3 one process"),
    counter("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "", POSITIVE, "Memory rows replaced after correctable errors"),
    gauge("DCGM_FI_DEV_COUNT", "", POSITIVE, "GPUs in the host"),
    gauge("DCGM_FI_DEV_DEC_UTIL", "%", PERCENT, "How busy the video decoder is"),
    counter("DCGM_FI_DEV_ECC_DBE_AGG_DEV", "", POSITIVE, "Uncorrectable ECC errors in device memory over the board's life"),
    counter("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "", POSITIVE, "Uncorrectable ECC errors over the board's life"),
    counter("DCGM_FI_DEV_ECC_DBE_VOL_DEV", "", POSITIVE, "Uncorrectable ECC errors in device memory since the driver was loaded"),
    counter("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "", POSITIVE, "Uncorrectable ECC errors since the driver was loaded"),
    counter("DCGM_FI_DEV_ECC_SBE_AGG_DEV", "", POSITIVE, "Corrected ECC errors in device memory over the board's life"),
    counter("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "", POSITIVE, "Corrected ECC errors over the board's life"),
    counter("DCGM_FI_DEV_ECC_SBE_VOL_DEV", "", POSITIVE, "Corrected ECC errors in device memory since the driver was loaded"),
    counter("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "", POSITIVE, "Corrected ECC errors since the driver was loaded"),
    gauge("DCGM_FI_DEV_ENC_UTIL", "%", PERCENT, "How busy the video encoder is"),
    gauge("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "W", POWER, "Power limit in force, the lowest of all that apply"),
    gauge("DCGM_FI_DEV_FABRIC_MANAGER_STATUS", "", POSITIVE, "State of the registration with the fabric manager"),
    gauge("DCGM_FI_DEV_FAN_SPEED", "%", FAN, "Fan speed as a share of the highest intended one"),
    gauge("DCGM_FI_DEV_FB_FREE", "MiB", POSITIVE, "Frame buffer memory that is free"),
    gauge("DCGM_FI_DEV_FB_RESERVED", "MiB", POSITIVE, "Frame buffer memory kept for the driver"),
    gauge("DCGM_FI_DEV_FB_TOTAL", "MiB", POSITIVE, "Frame buffer memory in all"),
    gauge("DCGM_FI_DEV_FB_USED", "MiB", POSITIVE, "Frame buffer memory in use"),
    gauge("DCGM_FI_DEV_FB_USED_PERCENT", "", RATIO, "Share of the frame buffer that is in use"),
    gauge("DCGM_FI_DEV_GPU_MAX_OP_TEMP", "C", TEMPERATURE, "Highest temperature the GPU may work at"),
    gauge("DCGM_FI_DEV_GPU_TEMP", "C", TEMPERATURE, "Temperature of the GPU"),
    gauge("DCGM_FI_DEV_GPU_UTIL", "%", PERCENT, "Share of time in which a kernel was running"),
    counter("DCGM_FI_DEV_LOW_UTIL_VIOLATION", "us", POSITIVE, "Time during which low use held the clocks down"),
    gauge("DCGM_FI_DEV_MAX_MEM_CLOCK", "MHz", POSITIVE, "Highest memory clock"),
    gauge("DCGM_FI_DEV_MAX_SM_CLOCK", "MHz", POSITIVE, "Highest SM clock"),
    gauge("DCGM_FI_DEV_MEMORY_TEMP", "C", TEMPERATURE, "Temperature of the memory"),
    gauge("DCGM_FI_DEV_MEM_CLOCK", "MHz", POSITIVE, "Clock of the memory"),
    gauge("DCGM_FI_DEV_MEM_COPY_UTIL", "%", PERCENT, "Share of time in which memory was read or written"),
    gauge("DCGM_FI_DEV_MEM_MAX_OP_TEMP", "C", TEMPERATURE, "Highest temperature the memory may work at"),
    gauge("DCGM_FI_DEV_MIG_MODE", "", POSITIVE, "Whether MIG is on"),
    counter("DCGM_FI_DEV_NVLINK_BANDWIDTH_L0", "KB/s", POSITIVE, "Traffic over NVLink 0"),
    counter("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "KB/s", POSITIVE, "Traffic over all NVLinks"),
    counter("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", "", POSITIVE, "NVLink data CRC errors"),
    counter("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", "", POSITIVE, "NVLink flow control CRC errors"),
    counter("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "", POSITIVE, "NVLink recoveries"),
    counter("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "", POSITIVE, "NVLink retries"),
    gauge("DCGM_FI_DEV_PCIE_LINK_GEN", "", POSITIVE, "PCIe generation of the link at present"),
    gauge("DCGM_FI_DEV_PCIE_LINK_WIDTH", "", POSITIVE, "PCIe lanes in use"),
    gauge("DCGM_FI_DEV_PCIE_MAX_LINK_GEN", "", POSITIVE, "Highest PCIe generation of the link"),
    gauge("DCGM_FI_DEV_PCIE_MAX_LINK_WIDTH", "", POSITIVE, "Most PCIe lanes of the link"),
    counter("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "", POSITIVE, "PCIe retries"),
    counter("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", "KB/s", POSITIVE, "Bytes received over PCIe, as the driver counts them"),
    counter("DCGM_FI_DEV_PCIE_TX_THROUGHPUT", "KB/s", POSITIVE, "Bytes sent over PCIe, as the driver counts them"),
    gauge("DCGM_FI_DEV_POWER_MGMT_LIMIT", "W", POWER, "Power limit as set"),
    gauge("DCGM_FI_DEV_POWER_USAGE", "W", POWER, "Power drawn"),
    gauge("DCGM_FI_DEV_POWER_USAGE_INSTANT", "W", POWER, "Power drawn at this instant, not averaged"),
    counter("DCGM_FI_DEV_POWER_VIOLATION", "us", POSITIVE, "Time during which the power limit held the clocks down"),
    gauge("DCGM_FI_DEV_PSTATE", "", POSITIVE, "Performance state, 0 is the fastest"),
    counter("DCGM_FI_DEV_RELIABILITY_VIOLATION", "us", POSITIVE, "Time during which the reliability limit held the clocks down"),
    counter("DCGM_FI_DEV_RETIRED_DBE", "", POSITIVE, "Memory pages retired after uncorrectable errors"),
    counter("DCGM_FI_DEV_RETIRED_PENDING", "", POSITIVE, "Memory pages that will be retired at the next restart"),
    counter("DCGM_FI_DEV_RETIRED_SBE", "", POSITIVE, "Memory pages retired after corrected errors"),
    gauge("DCGM_FI_DEV_ROW_REMAP_FAILURE", "", POSITIVE, "Whether replacing a memory row has failed"),
    gauge("DCGM_FI_DEV_ROW_REMAP_PENDING", "", POSITIVE, "Whether a memory row is to be replaced at the next reset"),
    gauge("DCGM_FI_DEV_SHUTDOWN_TEMP", "C", TEMPERATURE, "Temperature at which the GPU shuts down"),
    gauge("DCGM_FI_DEV_SLOWDOWN_TEMP", "C", TEMPERATURE, "Temperature at which the GPU slows down"),
    gauge("DCGM_FI_DEV_SM_CLOCK", "MHz", POSITIVE, "Clock of the streaming multiprocessors"),
    counter("DCGM_FI_DEV_SYNC_BOOST_VIOLATION", "us", POSITIVE, "Time during which sync boost held the clocks down"),
    counter("DCGM_FI_DEV_THERMAL_VIOLATION", "us", POSITIVE, "Time during which heat held the clocks down"),
    counter("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "mJ", POSITIVE, "Energy used since the driver was loaded"),
    counter("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "", POSITIVE, "Memory rows replaced after uncorrectable errors"),
    gauge("DCGM_FI_DEV_VGPU_LICENSE_STATUS", "", POSITIVE, "Whether the vGPU has a licence"),
    gauge("DCGM_FI_DEV_VIDEO_CLOCK", "MHz", POSITIVE, "Clock of the video engines"),
    gauge("DCGM_FI_DEV_XID_ERRORS", "", POSITIVE, "The last XID error, 0 is none"),
    gauge("DCGM_FI_PROF_DRAM_ACTIVE", "", RATIO, "Share of cycles in which the memory interface was moving data"),
    gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "", RATIO, "Share of time in which any engine for graphics or compute was busy"),
    gauge("DCGM_FI_PROF_NVLINK_RX_BYTES", "B/s", POSITIVE, "NVLink data received"),
    gauge("DCGM_FI_PROF_NVLINK_TX_BYTES", "B/s", POSITIVE, "NVLink data sent"),
    gauge("DCGM_FI_PROF_PCIE_RX_BYTES", "B/s", POSITIVE, "PCIe data received"),
    gauge("DCGM_FI_PROF_PCIE_TX_BYTES", "B/s", POSITIVE, "PCIe data sent"),
    gauge("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "", RATIO, "Share of cycles in which the half precision pipe was busy"),
    gauge("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "", RATIO, "Share of cycles in which the single precision pipe was busy"),
    gauge("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "", RATIO, "Share of cycles in which the double precision pipe was busy"),
    gauge("DCGM_FI_PROF_PIPE_INT_ACTIVE", "", RATIO, "Share of cycles in which the integer pipe was busy"),
    gauge("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "", RATIO, "Share of cycles in which the tensor cores were busy"),
    gauge("DCGM_FI_PROF_SM_ACTIVE", "", RATIO, "Share of time in which a multiprocessor had a warp to run"),
    gauge("DCGM_FI_PROF_SM_OCCUPANCY", "", RATIO, "Warps at home on a multiprocessor, as a share of the most it can hold"),
];

/// Metrics of which each bit of a value says something of its own.
const MASKS: [&str; 1] = ["DCGM_FI_DEV_CLOCKS_EVENT_REASONS"];

impl Metric {
    /// Whether its values are masks of bits.
    #[must_use]
    pub fn is_mask(&self) -> bool {
        MASKS.contains(&self.name)
    }
}

/// Every metric the catalogue knows, sorted by name.
#[must_use]
pub fn catalogue() -> &'static [Metric] {
    &CATALOGUE
}

/// One metric by any of its names.
#[must_use]
pub fn metric(name: &str) -> Option<&'static Metric> {
    let name = catalogue_name(name);
    CATALOGUE.binary_search_by(|known| known.name.cmp(name)).ok().map(|at| &CATALOGUE[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_found_by_its_names() {
        assert!(catalogue().windows(2).all(|pair| pair[0].name < pair[1].name), "sorted, each once");
        for known in catalogue() {
            assert_eq!(metric(known.name).map(|m| m.name), Some(known.name));
            assert!(known.range.0 < known.range.1 && !known.description.is_empty());
        }
        assert_eq!(metric("dcgm_gpu_temp").map(|m| m.name), Some("DCGM_FI_DEV_GPU_TEMP"));
        assert!(metric("DCGM_FI_DEV").is_none());
        assert!(metric("").is_none());
    }
}

//! What Prometheus reads of recipes, by mount and operation: taken from the tables when it asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use quorate_tree::SharedState;

use super::{Activity, Counted};

/// Of a server: what recipes did while it led, and who is parked where.
pub(crate) struct Exporter {
    pub(crate) activity: Arc<Activity>,
    pub(crate) state: SharedState,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

type Number = fn(&Counted) -> u64;

/// Of a shadow's runs, and of those that differed.
type OfShadow = fn(u64, u64) -> u64;

/// Name, help, and what is counted.
const COUNTERS: [(&str, &str, Number); 4] = [
    ("recipe_calls", "Calls of operations", |counted| {
        counted.calls
    }),
    ("recipe_fuel", "Fuel that their runs used", |counted| {
        counted.fuel
    }),
    (
        "recipe_run_microseconds",
        "Time that their runs took",
        |counted| counted.micros,
    ),
    (
        "recipe_written_bytes",
        "Bytes of paths and data that their runs wrote",
        |counted| counted.written_bytes,
    ),
];

/// The same of shadows.
const SHADOW_COUNTERS: [(&str, &str, OfShadow); 2] = [
    (
        "shadow_runs",
        "Runs of a mount's shadow beside what is mounted",
        |runs, _| runs,
    ),
    (
        "shadow_differences",
        "Those that ended otherwise, or would have changed something else",
        |_, differing| differing,
    ),
];

impl Collector for Exporter {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let operations = self.activity.operations.lock().clone();
        for (name, help, number) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for ((mount, operation), counted) in &operations {
                let labels = [("mount", mount.as_str()), ("operation", operation)];
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&number(counted), None)?;
            }
        }
        let help = "Runs of operations, by how they ended";
        let mut metric =
            encoder.encode_descriptor("recipe_runs", help, None, MetricType::Counter)?;
        for ((mount, operation), counted) in &operations {
            for (ending, number) in &counted.endings {
                let labels = [
                    ("mount", mount.as_str()),
                    ("operation", operation),
                    ("ending", ending),
                ];
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(number, None)?;
            }
        }
        self.encode_shadows(&mut encoder)?;
        self.encode_parked(encoder)
    }
}

impl Exporter {
    fn encode_shadows(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shadows = self.activity.observations.counts();
        for (name, help, number) in SHADOW_COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (mount, runs, differing) in &shadows {
                let labels = [("mount", mount.as_str())];
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&number(*runs, *differing), None)?;
            }
        }
        Ok(())
    }

    fn encode_parked(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let parked: Vec<(String, u64, f64)> = {
            let state = self.state.read();
            let now_ms = state.last_time().0;
            let of = |mount: &quorate_model::recipe::Mount| {
                let number = state.parked_number(Some(&mount.path));
                let oldest = state.parked_at(&mount.path).next();
                let oldest_ms = oldest.map_or(now_ms, |call| call.started.0);
                let seconds = now_ms.saturating_sub(oldest_ms) as f64 / 1000.0;
                (mount.path.as_str().to_owned(), number, seconds)
            };
            state.mounts().map(of).collect()
        };
        let help = "Calls that are parked at a mount";
        let mut metric =
            encoder.encode_descriptor("mount_parked_calls", help, None, MetricType::Gauge)?;
        for (mount, number, _) in &parked {
            let labels = [("mount", mount.as_str())];
            metric.encode_family(&labels)?.encode_gauge(number)?;
        }
        let help = "For how long the oldest of them is";
        let mut metric = encoder.encode_descriptor(
            "mount_oldest_parked_seconds",
            help,
            None,
            MetricType::Gauge,
        )?;
        for (mount, _, seconds) in &parked {
            let labels = [("mount", mount.as_str())];
            metric.encode_family(&labels)?.encode_gauge(seconds)?;
        }
        Ok(())
    }
}

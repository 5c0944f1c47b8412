//! Room on the disk that a service keeps its files on, read when somebody looks.

use std::path::PathBuf;

use prometheus::Gauge;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::registry::{Description, Kind, Registry};

const FREE: (&str, &str) =
    ("tallyhouse_data_disk_free_bytes", "Free space of the disk with the data folder, for users without rights");
const SIZE: (&str, &str) = ("tallyhouse_data_disk_size_bytes", "Size of the disk with the data folder");

struct Disk {
    folder: PathBuf,
    free: Gauge,
    size: Gauge,
}

/// Shows the disk of a folder; while it cannot be read there is no series.
pub fn register(registry: &Registry, folder: PathBuf) -> prometheus::Result<()> {
    let disk = Disk { folder, free: Gauge::new(FREE.0, FREE.1)?, size: Gauge::new(SIZE.0, SIZE.1)? };
    registry.collect_from(disk, [FREE, SIZE].map(|(name, help)| Description::new(name, Kind::Gauge, help, &[])))
}

impl Collector for Disk {
    fn desc(&self) -> Vec<&Desc> {
        self.free.desc().into_iter().chain(self.size.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(found) = rustix::fs::statvfs(&self.folder) else { return Vec::new() };
        self.free.set(found.f_bavail as f64 * found.f_frsize as f64);
        self.size.set(found.f_blocks as f64 * found.f_frsize as f64);
        self.free.collect().into_iter().chain(self.size.collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_has_no_series() {
        let (there, gone) = (Registry::new(), Registry::new());
        register(&there, std::env::temp_dir()).unwrap();
        register(&gone, PathBuf::from("/nowhere/at/all")).unwrap();
        let [free, size] = <[MetricFamily; 2]>::try_from(there.gather()).unwrap();
        let value = |family: &MetricFamily| family.get_metric()[0].get_gauge().get_value();
        assert!(value(&size) > 0.0 && value(&free) <= value(&size));
        assert!(gone.gather().is_empty());
    }
}

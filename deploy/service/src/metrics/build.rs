//! Which version runs.

use super::registry::Registry;

pub(super) fn register(registry: &Registry, service: &str, version: &str) -> prometheus::Result<()> {
    let info =
        registry.gauges("tallyhouse_build_info", "1; its labels say which version runs", &["service", "version"])?;
    info.with_label_values(&[service, version]).set(1);
    Ok(())
}

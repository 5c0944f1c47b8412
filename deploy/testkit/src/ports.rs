//! Free ports.

use tallyhouse_loadtest::ports;

/// So many, all different.
pub fn free_ports<const N: usize>() -> [u16; N] {
    ports::free_array().unwrap()
}

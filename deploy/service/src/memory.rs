//! Sets how much freed memory the allocator of glibc keeps.
#![allow(unsafe_code, reason = "a C function is called")]

/// Larger pieces go back to the system at once: batches are buffers of some MiB, and come and go all the time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: i32 = 1 << 20;

/// So much may stay unused at the end of the heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIMMED_FROM: i32 = 4 << 20;

/// Bounds what freed memory stays with the process. By default glibc raises the size from which memory goes back to 32 MiB, and has eight
/// arenas per core: under full load both services took 328 MiB, and 223 MiB with these (`loadtest bench`, 2 cores, runs in turn). To be called
/// before there are threads.
pub fn bound() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let arenas = i32::try_from(cores.max(2)).unwrap_or(i32::MAX);
        let options = [
            (libc::M_ARENA_MAX, arenas),
            (libc::M_MMAP_THRESHOLD, MAPPED_FROM),
            (libc::M_TRIM_THRESHOLD, TRIMMED_FROM),
        ];
        for (option, value) in options {
            // SAFETY: `mallopt` takes two numbers and keeps them; one that it does not know is refused.
            unsafe { libc::mallopt(option, value) };
        }
    }
}

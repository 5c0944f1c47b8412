//! The engine as a library: the one place with `unsafe`.
#![allow(unsafe_code, reason = "a C library is loaded and called")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;

use libloading::{Library, Symbol};

/// `chdb_result *chdb_query_cmdline(int argc, char **argv)`: what `clickhouse local ARGUMENTS` does.
type QueryCmdline = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut Outcome;
/// `const char *chdb_result_error(chdb_result *)`: null when there is none.
type ResultError = unsafe extern "C" fn(*mut Outcome) -> *const c_char;

/// The library's result; only it knows what is inside.
#[repr(C)]
struct Outcome {
    _opaque: [u8; 0],
}

/// Why the library did not run.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It is not a library for this machine, or not this library.
    #[error("the ClickHouse library cannot be loaded: {0}")]
    Load(#[from] libloading::Error),
    /// A path that C cannot take.
    #[error("an argument holds a NUL byte")]
    Argument(#[from] std::ffi::NulError),
    /// What the engine said.
    #[error("ClickHouse: {0}")]
    Engine(String),
}

/// Loads the library and runs `clickhouse local` with these arguments. Returns when it ends.
///
/// Call it once, from the first thread of a process that has nothing else to do: the library installs signal handlers
/// and allocates as if the process were its own.
pub(crate) fn run(path: &Path, arguments: &[String]) -> Result<(), LibraryError> {
    // The library takes its time zone from here, whatever config.xml says. Set here and not by the parent, `/proc/self/environ` is empty, which SQL can
    // read.
    #[allow(clippy::disallowed_methods, reason = "it is the library's input")]
    // SAFETY: this process has no other threads.
    unsafe {
        std::env::set_var("TZ", "UTC");
    }
    let owned: Vec<CString> = arguments.iter().map(|text| CString::new(text.as_str())).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*mut c_char> = owned.iter().map(|text| text.as_ptr().cast_mut()).collect();
    let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
    // `argv[argc]` is null, as in every `main`.
    pointers.push(std::ptr::null_mut());

    // SAFETY: loading runs the library's initialisers. It is ClickHouse's own build, pinned by version and hash, and this
    // process has no other threads and does nothing else.
    let library = unsafe { Library::new(path)? };
    // SAFETY: these are the C signatures in the package's `chdb.h`.
    let query: Symbol<'_, QueryCmdline> = unsafe { library.get(b"chdb_query_cmdline\0")? };
    // SAFETY: as above.
    let error_of: Symbol<'_, ResultError> = unsafe { library.get(b"chdb_result_error\0")? };
    // SAFETY: `pointers` holds `count` NUL-terminated strings and a null, all alive until the call returns; the library
    // reads and does not keep or write them.
    let outcome = unsafe { query(count, pointers.as_mut_ptr()) };
    let error = if outcome.is_null() {
        None
    } else {
        // SAFETY: `outcome` came from the call above and was not freed. It is not freed at all: the process ends now.
        let text = unsafe { error_of(outcome) };
        // SAFETY: the library gives null or a NUL-terminated text that lives as long as `outcome`.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    // Unloading would run destructors under the threads that the engine leaves behind.
    std::mem::forget(library);
    error.map_or(Ok(()), |text| Err(LibraryError::Engine(text)))
}

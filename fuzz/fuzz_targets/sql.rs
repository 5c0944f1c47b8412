//! Statements of analysts (`adhoc::guard::check`).
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../query-api/src/adhoc/guard.rs"]
mod guard;

fuzz_target!(|bytes: &[u8]| {
    let Ok(sql) = std::str::from_utf8(bytes) else { return };
    let length = sql.chars().count();
    match guard::check(sql) {
        Ok(passed) => {
            // Blanks stand for comments: positions stay, and what is passed on would be passed on as it is.
            assert_eq!(passed.chars().count(), length);
            assert_eq!(guard::check(&passed).as_deref(), Ok(passed.as_str()));
        }
        Err(at) => assert!((1..=length.max(1)).contains(&at.position), "{at:?} of {length}"),
    }
});

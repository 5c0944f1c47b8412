//! Statements of analysts (`adhoc::sql_allow_list::check`).
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../query-api/src/adhoc/sql_allow_list.rs"]
mod sql_allow_list;

fuzz_target!(|bytes: &[u8]| {
    let Ok(sql) = std::str::from_utf8(bytes) else { return };
    let length = sql.chars().count();
    match sql_allow_list::check(sql) {
        Ok(passed) => {
            // Blanks stand for comments: positions stay, and what is passed on would be passed on as it is.
            assert_eq!(passed.chars().count(), length);
            assert_eq!(sql_allow_list::check(&passed).as_deref(), Ok(passed.as_str()));
        }
        Err(at) => assert!((1..=length.max(1)).contains(&at.position), "{at:?} of {length}"),
    }
});

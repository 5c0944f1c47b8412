//! Every attack that was tried, a tenth as hard. The same as it was tried: `make siege`.

use tallyhouse_loadtest::development::{ATTACKER_INGEST_KEY, ATTACKER_QUERY_KEY};
use tallyhouse_loadtest::siege::{self, Attacker, Scale, SiegeConfig};

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_takes_anything_from_anybody_else() {
    let config = SiegeConfig {
        binary: env!("CARGO_BIN_EXE_tallyhouse").into(),
        scale: Scale::Short,
        attacker: Attacker { ingest_key: ATTACKER_INGEST_KEY.to_owned(), query_key: ATTACKER_QUERY_KEY.to_owned() },
        only: Vec::new(),
    };
    let report = siege::run(&config, |line| eprintln!("{line}")).await.unwrap();
    eprintln!("{report}");
    assert_eq!(report.broken(), Vec::<String>::new(), "{report}");
}

//! Erasures in the process of the query API: their routes, and the runner that works on them.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tallyhouse_control::privacy::http::{self, Privacy};
use tallyhouse_control::privacy::runner::{CachesNotTold, Invalidate, Runner};
use tallyhouse_service::access::GuardedRouter;
use tallyhouse_service::day_versions::DayChange;
use tallyhouse_sql::AllShards;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::deps::Deps;

/// How often Redis is asked to take changed days: a cached answer of before would name the person's events.
const ATTEMPTS: u32 = 60;
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The runner, once there is a cache; `None` where nobody can be erased.
pub(crate) fn runner(deps: &Deps) -> Option<impl FnOnce(Cache) -> Runner + use<>> {
    let store = deps.control.store().filter(|store| store.can_write())?.clone();
    let shards = AllShards::of(&deps.shards.as_user(deps.writer.as_ref()?));
    let (key, control) = (deps.user_hash_key.clone()?, deps.control.clone());
    Some(|cache| Runner { control, store, shards, key, invalidate: invalidating(cache) })
}

/// Their routes, which say when nobody can be erased here.
pub(crate) fn routes(deps: &Deps) -> GuardedRouter {
    let (control, key) = (deps.control.clone(), deps.user_hash_key.clone());
    http::routes(Privacy::new(control, &deps.shards, deps.writer.as_ref(), key))
}

/// Works on erasures until `stopped`.
pub(crate) fn work(runner: Option<Runner>, stopped: CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match runner {
        // Its type is hidden: with it, that of the whole service is too deep for the compiler.
        Some(runner) => Box::pin(runner.run(stopped)),
        None => Box::pin(std::future::ready(())),
    }
}

fn invalidating(cache: Cache) -> Invalidate {
    Arc::new(move |days| {
        let cache = cache.clone();
        Box::pin(async move {
            let days: BTreeSet<_> = days.into_iter().map(|day| DayChange::day(day.project_id, day.day)).collect();
            for _ in 0..ATTEMPTS {
                if cache.raise(&days).await.is_ok() {
                    return Ok(());
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            tracing::error!(days = days.len(), "Redis does not take changed days: an erasure waits for it");
            Err(CachesNotTold)
        })
    })
}

//! No byte of an answer to one project tells of another.
//!
//! ```text
//! world: projects iso-a0 … (whose credentials ask), iso-b and zqmarkerzq-c (full of markers)
//! for each of N generated requests: perhaps iso-b's identical one first -> iso-a's -> again (cached) -> no marker in any byte
//! people's accounts, over HTTP and ClickHouse's own protocol: the same
//! ```
//!
//! A request may name what iso-b has (its name, its metric, its types of event): whatever is behind these names, and every name of the third
//! project, has the marker. That the markers are there is shown by iso-b's own answers. `ISOLATION_REQUESTS` says how many requests (1,200, which give 2,000 answers;
//! `make isolation`: 100,000), `ISOLATION_SEED` which.

mod answers;
mod people;
mod requests;
mod statements;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tallyhouse_service::env::{Env, ProcessEnv};
use tokio::task::JoinSet;

use answers::{Answer, ask, markers};
use requests::{Dice, Request};
use world::{Tenant, World};

/// Requests at a time.
const AT_A_TIME: usize = 6;

/// Statements of a project, below its quota of an hour.
const STATEMENTS_OF_A_PROJECT: usize = 700;

fn setting(name: &str, default: u64) -> u64 {
    ProcessEnv.get(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

#[derive(Default)]
struct Found {
    asked: usize,
    of_statuses: BTreeMap<u16, usize>,
    /// Answers to iso-b with markers.
    shown_to_owner: usize,
    hits: usize,
    /// Answers to people's accounts with rows of their own project, over HTTP and ClickHouse's own protocol.
    own_rows: [usize; 2],
    /// Answers that are a fault of a service's.
    faults: Vec<String>,
    leaks: Vec<String>,
}

impl Found {
    fn add(&mut self, asked: &str, answer: &Answer) {
        self.asked += 1;
        *self.of_statuses.entry(answer.status).or_default() += 1;
        self.hits += usize::from(answer.is_cached());
        for marker in markers(answer) {
            self.leaks.push(format!("{marker} in the answer to {asked}: {:.600}", answer.text()));
        }
    }

    fn merge(&mut self, other: Self) {
        self.asked += other.asked;
        other.of_statuses.into_iter().for_each(|(status, count)| *self.of_statuses.entry(status).or_default() += count);
        self.shown_to_owner += other.shown_to_owner;
        self.hits += other.hits;
        (0..2).for_each(|way| self.own_rows[way] += other.own_rows[way]);
        self.faults.extend(other.faults);
        self.leaks.extend(other.leaks);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_to_one_project_tells_of_another() {
    let requests = usize::try_from(setting("ISOLATION_REQUESTS", 1_200)).unwrap();
    let seed = setting("ISOLATION_SEED", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into());
    println!("ISOLATION_SEED={seed} ISOLATION_REQUESTS={requests}");
    let world = Arc::new(World::start(1 + requests / STATEMENTS_OF_A_PROJECT).await);
    let next = Arc::new(AtomicUsize::new(0));
    let mut found = Found::default();
    let mut dice = Dice::new(seed);
    // Each route a few times, with each kind of key.
    for route in requests::all_routes().iter().flat_map(|route| [route; 6]) {
        let request = requests::of_route(&mut dice, route);
        twice(&world, &request, &world.tenants[0], &mut found).await;
    }
    let mut workers = JoinSet::new();
    for worker in 0..AT_A_TIME {
        let (world, next) = (Arc::clone(&world), Arc::clone(&next));
        workers.spawn(async move {
            let mut found = Found::default();
            let mut dice = Dice::new(seed.wrapping_add(worker as u64));
            while next.fetch_add(1, Ordering::Relaxed) < requests {
                one(&world, &mut dice, &mut found).await;
            }
            found
        });
    }
    while let Some(worker) = workers.join_next().await {
        found.merge(worker.unwrap());
    }
    println!(
        "{} answers, {} cached, {} markers to their owner, by status {:?}",
        found.asked, found.hits, found.shown_to_owner, found.of_statuses
    );
    println!("{:?} rows of their own project to people's accounts", found.own_rows);
    found.leaks.truncate(5);
    found.faults.truncate(5);
    assert_eq!(found.leaks, Vec::<String>::new(), "ISOLATION_SEED={seed}");
    assert_eq!(found.faults, Vec::<String>::new(), "ISOLATION_SEED={seed}");
    // Otherwise nothing was proved.
    assert!(found.own_rows.iter().all(|count| *count > requests / 200), "{:?}", found.own_rows);
    assert!(found.shown_to_owner > requests / 50, "{}", found.shown_to_owner);
    assert!(found.hits > requests / 50, "{}", found.hits);
    assert!(found.of_statuses.get(&200).is_some_and(|count| *count > requests / 4), "{:?}", found.of_statuses);
}

/// One request of a project, perhaps right after the same one of the project with the markers, and perhaps again.
async fn one(world: &World, dice: &mut Dice, found: &mut Found) {
    let tenant = dice.below(world.tenants.len());
    let own = &world.tenants[tenant];
    if dice.below(8) == 0 {
        let account = &world.accounts[tenant % world.accounts.len()];
        let sql = statements::of_views(dice);
        let is_native = dice.below(2) == 0;
        let answer = if is_native {
            people::native(world, account, &sql).await
        } else {
            people::http(world, account, &sql).await
        };
        found.own_rows[usize::from(is_native)] += usize::from(answer.text().contains("iso-a"));
        found.add(&format!("{} {sql}", if is_native { "native" } else { "HTTP" }), &answer);
        return;
    }
    let request: Request = requests::generate(dice);
    let is_after_the_other = dice.below(2) == 0;
    if is_after_the_other {
        twice(world, &request, own, found).await;
    } else {
        asked(world, &request, own, found).await;
    }
}

/// The project with the markers first, then another one, which what was cached must not be given to, then that one again.
async fn twice(world: &World, request: &Request, own: &Tenant, found: &mut Found) {
    let answer = ask(world.url(request.service), request, &world.other).await;
    found.shown_to_owner += usize::from(!markers(&answer).is_empty());
    asked(world, request, own, found).await;
    asked(world, request, own, found).await;
}

async fn asked(world: &World, request: &Request, own: &Tenant, found: &mut Found) {
    let answer = ask(world.url(request.service), request, own).await;
    if answer.status == 500 {
        found.faults.push(format!("{request}: {:.600}", answer.text()));
    }
    found.add(&request.to_string(), &answer);
}

//! The open connections of a listener, by address: who is let in, and who makes room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Limits;
use super::address::counted;
use super::slot::Slot;

/// Why nobody makes room: everyone has a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    OfAddress,
    All,
}

/// What a new connection needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The place of another one.
    PlaceOf(Full),
}

fn need(all: usize, of_address: usize, limits: Limits) -> Need {
    match () {
        () if of_address >= limits.per_address => Need::PlaceOf(Full::OfAddress),
        () if all >= limits.connections => Need::PlaceOf(Full::All),
        () => Need::Nothing,
    }
}

type OfAddress = HashMap<u64, Arc<Slot>>;

#[derive(Default)]
struct Open {
    by_address: HashMap<IpAddr, OfAddress>,
    all: usize,
    next: u64,
}

pub(super) struct Table {
    limits: Limits,
    open: Mutex<Open>,
}

/// The place of a connection; it goes with the value.
pub(super) struct Place {
    table: Arc<Table>,
    id: u64,
    pub(super) slot: Arc<Slot>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().remove(self.slot.address, self.id);
    }
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, open: Mutex::default() }
    }

    /// How many there are.
    pub(super) fn open(&self) -> usize {
        self.lock().all
    }

    /// A place, and whether somebody had to go for it.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<(Place, bool), Full> {
        let address = counted(address);
        let mut open = self.lock();
        let of_address = open.by_address.get(&address).map_or(0, HashMap::len);
        let need = need(open.all, of_address, self.limits);
        match need {
            Need::Nothing => {}
            Need::PlaceOf(full @ Full::OfAddress) => open.replace(Some(address)).then_some(()).ok_or(full)?,
            Need::PlaceOf(full @ Full::All) => open.replace(None).then_some(()).ok_or(full)?,
        }
        let (id, slot) = (open.next, Arc::new(Slot::new(address)));
        open.next += 1;
        open.all += 1;
        open.by_address.entry(address).or_default().insert(id, Arc::clone(&slot));
        Ok((Place { table: Arc::clone(self), id, slot }, need != Need::Nothing))
    }

    /// Has one connection without a request closed, of the address with the most; false when there is none.
    pub(super) fn replace_one(&self) -> bool {
        self.lock().replace(None)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn remove(&mut self, address: IpAddr, id: u64) {
        let Some(of_address) = self.by_address.get_mut(&address) else { return };
        if of_address.remove(&id).is_some() {
            self.all -= 1;
        }
        if of_address.is_empty() {
            self.by_address.remove(&address);
        }
    }

    /// Has the longest-waiting connection without a request closed: of an address, or of that which has the most of them.
    fn replace(&mut self, address: Option<IpAddr>) -> bool {
        let of = address.or_else(|| self.by_address.iter().max_by_key(|(_, all)| all.len()).map(|(most, _)| *most));
        let found = of.and_then(|of| self.by_address.get(&of)).and_then(oldest);
        let found = match (found, address) {
            // Those of that address are all busy.
            (None, None) => self.by_address.values().filter_map(oldest).min_by_key(|(since, ..)| *since),
            (found, _) => found,
        };
        let Some((_, id, slot)) = found else { return false };
        slot.replaced.notify_one();
        // Gone for the table at once: it is not asked twice.
        self.remove(slot.address, id);
        true
    }
}

fn oldest(of_address: &OfAddress) -> Option<(i64, u64, Arc<Slot>)> {
    let waiting = of_address.iter().filter_map(|(id, slot)| Some((slot.replaceable_since()?, *id, slot)));
    waiting.min_by_key(|(since, id, _)| (*since, *id)).map(|(since, id, slot)| (since, id, Arc::clone(slot)))
}

#[cfg(test)]
mod tests {
    use super::super::slot::Phase;
    use super::*;

    fn table(connections: usize, per_address: usize) -> Arc<Table> {
        Arc::new(Table::new(Limits { connections, per_address, ..Limits::ADMIN }))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Whether the connection was told to go.
    fn is_replaced(place: &Place) -> bool {
        let mut told = std::pin::pin!(place.slot.replaced.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        told.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn an_address_at_its_bound_makes_room_itself() {
        let table = table(100, 2);
        let (first, _) = table.enter(address(1)).unwrap();
        let (second, _) = table.enter(address(1)).unwrap();
        let (other, _) = table.enter(address(2)).unwrap();
        first.slot.enter(Phase::Request);
        let (third, replaced) = table.enter(address(1)).unwrap();
        assert!(replaced && is_replaced(&second), "the one without a request");
        assert!(!is_replaced(&first) && !is_replaced(&other));
        third.slot.enter(Phase::Request);
        assert_eq!(table.enter(address(1)).err(), Some(Full::OfAddress), "all have a request");
        assert!(table.enter(address(2)).is_ok());
        drop((second, third));
        assert!(table.enter(address(1)).is_ok());
    }

    #[test]
    fn in_all_the_address_with_the_most_makes_room() {
        let table = table(4, 3);
        let (lone, _) = table.enter(address(9)).unwrap();
        let many: Vec<Place> = (0..3).map(|_| table.enter(address(1)).unwrap().0).collect();
        let (new, replaced) = table.enter(address(2)).unwrap();
        assert!(replaced && !is_replaced(&lone));
        assert_eq!((is_replaced(&many[0]), is_replaced(&many[1])), (true, false), "the oldest");
        [&many[1], &many[2], &new].iter().for_each(|place| place.slot.enter(Phase::Request));
        assert!(table.enter(address(3)).is_ok());
        assert!(is_replaced(&lone), "the only one left without a request");
        drop((lone, many, new));
        assert_eq!(table.open(), 0);
    }
}

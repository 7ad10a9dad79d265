//! Places for connections: bounded, and the connections that do nothing are the first to go.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Doing};

/// A connection without a request keeps its place for so long: its first bytes may be on their way.
const GRACE: Duration = Duration::from_millis(10);

/// A client that owes us so much of a request keeps its place.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Places beyond the limit, for who comes while there is no regular one: the health check never waits behind others.
const EXTRA: usize = 32;

/// What a place is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Every call.
    Regular,
    /// The health check. Other calls need a regular place first.
    Extra,
}

#[derive(Debug)]
struct Held {
    kind: Kind,
    activity: Activity,
    evicted: CancellationToken,
}

/// All places of a server.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    held: Mutex<Table>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    held: HashMap<u64, Held>,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    /// The connection's activity, by which it may lose its place.
    pub(crate) activity: Activity,
    /// Cancelled when the place is given to another.
    pub(crate) evicted: CancellationToken,
    places: Arc<Places>,
}

impl Place {
    /// What the place is good for now.
    pub(crate) fn kind(&self) -> Kind {
        self.places.held.lock().held.get(&self.id).map_or(Kind::Extra, |held| held.kind)
    }

    /// Makes this a regular place if it is none, and returns whether that could be done within a moment.
    pub(crate) async fn promote(&self) -> bool {
        let deadline = Instant::now() + GRACE;
        loop {
            match self.places.try_promote(self.id) {
                Room::Found => return true,
                Room::Soon if Instant::now() < deadline => self.places.wait().await,
                Room::Soon | Room::None => return false,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held.lock().held.remove(&self.id);
        self.places.left.notify_one();
    }
}

impl Places {
    /// `most` regular places, and some extra ones.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default(), left: Notify::new() })
    }

    /// Returns a place for a new connection, taken from one that does nothing if need be.
    pub(crate) async fn enter(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_enter() {
                return place;
            }
            // All came within the last moments.
            self.wait().await;
        }
    }

    /// Waits until there may be a place again.
    async fn wait(&self) {
        tokio::select! {
            () = self.left.notified() => {}
            () = tokio::time::sleep(GRACE) => {}
        }
    }

    fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let mut table = self.held.lock();
        let now = Instant::now();
        let mut has_room = |kind, most| table.make_room(kind, most, now) == Room::Found;
        let kind = if has_room(Kind::Regular, self.most) {
            Kind::Regular
        } else if has_room(Kind::Extra, EXTRA) {
            Kind::Extra
        } else {
            return None;
        };
        let id = table.next;
        table.next += 1;
        let (activity, evicted) = (Activity::new(), CancellationToken::new());
        table.held.insert(id, Held { kind, activity: activity.clone(), evicted: evicted.clone() });
        Some(Place { id, activity, evicted, places: Arc::clone(self) })
    }

    /// Makes the place of this connection a regular one.
    fn try_promote(&self, id: u64) -> Room {
        let mut table = self.held.lock();
        let room = match table.held.get(&id).map(|held| held.kind) {
            Some(Kind::Regular) => return Room::Found,
            Some(Kind::Extra) => table.make_room(Kind::Regular, self.most, Instant::now()),
            // Another has it.
            None => return Room::None,
        };
        if room == Room::Found
            && let Some(held) = table.held.get_mut(&id)
        {
            held.kind = Kind::Regular;
        }
        room
    }
}

/// Whether there is a place.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Found,
    /// Not yet: a connection has yet to show that it does nothing.
    Soon,
    None,
}

impl Table {
    /// Sees to it that fewer than `most` places of this kind are held.
    fn make_room(&mut self, kind: Kind, most: usize, now: Instant) -> Room {
        let held = || self.held.iter().filter(|(_, held)| held.kind == kind);
        if held().count() < most {
            return Room::Found;
        }
        let (mut idle, mut owing, mut new) = (None, None, false);
        for (id, held) in held() {
            let (worst, since) = match held.activity.doing() {
                Doing::Served => continue,
                Doing::New => {
                    new = true;
                    continue;
                }
                Doing::Idle(since) => (&mut idle, since),
                Doing::Owing(since) => (&mut owing, since),
            };
            // Of those of one moment the one that came first.
            if worst.is_none_or(|(other, longest)| (since, *id) < (longest, other)) {
                *worst = Some((*id, since));
            }
        }
        let enough = |worst: Option<(u64, Instant)>, bound| {
            worst.filter(|(_, since)| now.saturating_duration_since(*since) >= bound)
        };
        match enough(idle, GRACE).or_else(|| enough(owing, TOLERANCE)) {
            Some((id, _)) => {
                if let Some(held) = self.held.remove(&id) {
                    held.evicted.cancel();
                }
                Room::Found
            }
            None if new || idle.is_some() => Room::Soon,
            None => Room::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a place for a connection that sends nothing.
    async fn enter_silently(places: &Arc<Places>) -> Place {
        let place = places.enter().await;
        place.activity.has_none();
        place
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_goes_first_and_the_served_stay() {
        let places = Places::new(3);
        let served = places.enter().await;
        served.activity.begin();
        tokio::time::advance(Duration::from_secs(1)).await;
        let first = enter_silently(&places).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = enter_silently(&places).await;
        let start = Instant::now();
        let third = enter_silently(&places).await;
        assert_eq!((first.evicted.is_cancelled(), second.evicted.is_cancelled()), (true, false));
        assert_eq!((third.kind(), start.elapsed()), (Kind::Regular, Duration::ZERO));
        // The next one does not wait for a place, but until the second has shown that it does nothing.
        tokio::time::advance(GRACE / 2).await;
        let fourth = places.enter().await;
        assert_eq!((fourth.kind(), start.elapsed()), (Kind::Extra, GRACE / 2));
        fourth.activity.begin();
        assert!(fourth.promote().await);
        assert!(second.evicted.is_cancelled() && !third.evicted.is_cancelled() && !served.evicted.is_cancelled());
        assert!(start.elapsed() >= GRACE && fourth.kind() == Kind::Regular);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_all_are_served_gets_an_extra_place() {
        let places = Places::new(2);
        let served = [places.enter().await, places.enter().await];
        for place in &served {
            place.activity.begin();
        }
        tokio::time::advance(Duration::from_secs(100)).await;
        let extra = futures_util::future::join_all((0..EXTRA).map(|_| enter_silently(&places))).await;
        assert!(extra.iter().all(|place| place.kind() == Kind::Extra));
        let more = places.enter().await;
        assert_eq!(more.kind(), Kind::Extra);
        assert_eq!(extra.iter().filter(|place| place.evicted.is_cancelled()).count(), 1);
        let start = Instant::now();
        assert!(!more.promote().await, "all others are served");
        assert_eq!(start.elapsed(), Duration::ZERO, "and nobody waits for that");
        drop(served);
        assert!(more.promote().await);
        assert_eq!(more.kind(), Kind::Regular);
        assert_eq!(places.enter().await.kind(), Kind::Regular);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_not_looked_at_keeps_its_place() {
        let places = Places::new(1);
        let new = places.enter().await;
        let start = Instant::now();
        let other = places.enter().await;
        assert_eq!((other.kind(), start.elapsed()), (Kind::Extra, Duration::ZERO));
        assert!(
            !other.promote().await && start.elapsed() < 3 * GRACE,
            "it waits a moment for what becomes of the new one"
        );
        assert!(!new.evicted.is_cancelled());
        new.activity.has_none();
        assert!(other.promote().await);
        assert!(new.evicted.is_cancelled() && !new.promote().await);
        // A request that is there when somebody looks is served.
        other.activity.has_bytes();
        other.activity.begin();
        assert!(!places.enter().await.promote().await && !other.evicted.is_cancelled());
    }
}

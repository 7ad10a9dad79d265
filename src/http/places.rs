//! Places for connections: bounded, and the connections that do nothing are the first to go.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::activity::{Activity, Doing};

/// A connection without a request keeps its place for so long: its first bytes may be on their way.
const GRACE: Duration = Duration::from_millis(10);

/// A client that owes us so much of a request keeps its place.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Places beyond the limit, for who comes while there is no regular one.
const EXTRA: usize = 128;

/// So many of them wait for a regular place at most. Through the others the health check passes at once.
const WAITING: usize = EXTRA - 32;

/// Who waits for a regular place is refused after so long.
const PATIENCE: Duration = Duration::from_millis(250);

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
    lost: Arc<Notify>,
}

/// All places of a server.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    held: Mutex<Table>,
    /// A place was left: for who has none.
    left: Notify,
    /// The same, for who waits for a regular one.
    promotable: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    held: HashMap<u64, Held>,
    /// How many wait for a regular place.
    waiting: usize,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    /// The connection's activity, by which it may lose its place.
    pub(crate) activity: Activity,
    lost: Arc<Notify>,
    places: Arc<Places>,
}

/// One who waits for a regular place.
#[derive(Debug)]
struct Waiter<'a>(&'a Places);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.held.lock().waiting -= 1;
    }
}

impl Place {
    /// Returns what the place is good for.
    pub(crate) fn kind(&self) -> Kind {
        self.held_kind().unwrap_or(Kind::Extra)
    }

    fn held_kind(&self) -> Option<Kind> {
        self.places.held.lock().held.get(&self.id).map(|held| held.kind)
    }

    /// Waits until another has the place, and no request had come by then. One that had, is answered: in a new place if
    /// it needs one. The connection is to be polled before this.
    pub(crate) async fn is_lost(&self) {
        loop {
            self.lost.notified().await;
            // What has come is known once tokio has asked the system, which it does before this goes on.
            tokio::task::yield_now().await;
            if self.activity.doing() != Doing::Served && self.held_kind().is_none() {
                return;
            }
        }
    }

    /// Makes this a regular place if it is none, and returns whether that could be done within a moment.
    pub(crate) async fn promote(&self) -> bool {
        if self.places.try_promote(self) {
            return true;
        }
        let Some(_waiter) = self.places.begin_to_wait() else { return false };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            wait(&self.places.promotable).await;
            if self.places.try_promote(self) {
                return true;
            }
        }
        false
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held.lock().held.remove(&self.id);
        self.places.left.notify_one();
        self.places.promotable.notify_one();
    }
}

/// Waits until a place was left, or one that does nothing has had its time.
async fn wait(left: &Notify) {
    tokio::select! {
        () = left.notified() => {}
        () = tokio::time::sleep(GRACE) => {}
    }
}

impl Places {
    /// `most` regular places, and some extra ones.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default(), left: Notify::new(), promotable: Notify::new() })
    }

    /// Returns a place for a new connection, taken from one that does nothing if need be.
    pub(crate) async fn enter(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_enter() {
                return place;
            }
            wait(&self.left).await;
        }
    }

    fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let mut table = self.held.lock();
        let now = Instant::now();
        // Who has a request waits in front of who may have none.
        let kind = if table.waiting == 0 && table.make_room(Kind::Regular, self.most, now) {
            Kind::Regular
        } else if table.make_room(Kind::Extra, EXTRA, now) {
            Kind::Extra
        } else {
            return None;
        };
        let id = table.next;
        table.next += 1;
        let place = Place { id, activity: Activity::new(), lost: Arc::default(), places: Arc::clone(self) };
        table.hold(&place, kind);
        Some(place)
    }

    /// Makes a place a regular one, also one that another has by now, if there is one to be had.
    fn try_promote(&self, place: &Place) -> bool {
        let mut table = self.held.lock();
        let now = Instant::now();
        match table.held.get(&place.id).map(|held| held.kind) {
            Some(Kind::Regular) => return true,
            Some(Kind::Extra) => {}
            None if table.make_room(Kind::Extra, EXTRA, now) => table.hold(place, Kind::Extra),
            None => return false,
        }
        let has_room = table.make_room(Kind::Regular, self.most, now);
        if has_room {
            table.hold(place, Kind::Regular);
        }
        has_room
    }

    /// Returns `None` if so many wait already that others could not come in.
    fn begin_to_wait(&self) -> Option<Waiter<'_>> {
        let mut table = self.held.lock();
        (table.waiting < WAITING).then(|| {
            table.waiting += 1;
            Waiter(self)
        })
    }
}

impl Table {
    /// Notes that the place is held.
    fn hold(&mut self, place: &Place, kind: Kind) {
        let held = Held { kind, activity: place.activity.clone(), lost: Arc::clone(&place.lost) };
        self.held.insert(place.id, held);
    }

    /// Sees to it that fewer than `most` places of this kind are held, and returns whether that could be done.
    fn make_room(&mut self, kind: Kind, most: usize, now: Instant) -> bool {
        let held = || self.held.iter().filter(|(_, held)| held.kind == kind);
        if held().count() < most {
            return true;
        }
        let (mut idle, mut owing) = (None, None);
        for (id, held) in held() {
            let (worst, since) = match held.activity.doing() {
                Doing::New | Doing::Served => continue,
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
        if let Some((id, _)) = enough(idle, GRACE) {
            if let Some(held) = self.held.remove(&id) {
                held.lost.notify_one();
            }
            return true;
        }
        let Some((id, _)) = enough(owing, TOLERANCE) else { return false };
        if let Some(held) = self.held.remove(&id) {
            held.activity.cut();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// Takes a place for a connection that sends nothing.
    async fn enter_silently(places: &Arc<Places>) -> Place {
        let place = places.enter().await;
        place.activity.has_none();
        place
    }

    /// Takes a place for a connection that sends a request.
    async fn enter_and_ask(places: &Arc<Places>) -> Place {
        let place = places.enter().await;
        place.activity.has_bytes();
        place.activity.begin();
        place
    }

    fn kinds<const N: usize>(places: [&Place; N]) -> [Option<Kind>; N] {
        places.map(Place::held_kind)
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_goes_first_and_the_served_stay() {
        let places = Places::new(3);
        let served = enter_and_ask(&places).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        let first = enter_silently(&places).await;
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = enter_silently(&places).await;
        let start = Instant::now();
        let third = enter_silently(&places).await;
        assert_eq!(kinds([&first, &second, &third]), [None, Some(Kind::Regular), Some(Kind::Regular)]);
        // The next one does not wait for a place, but until the second has shown that it does nothing.
        tokio::time::advance(GRACE / 2).await;
        let fourth = enter_and_ask(&places).await;
        assert_eq!((fourth.kind(), start.elapsed()), (Kind::Extra, GRACE / 2));
        assert!(fourth.promote().await);
        assert!((GRACE..2 * GRACE).contains(&start.elapsed()), "{:?}", start.elapsed());
        let regular = Some(Kind::Regular);
        assert_eq!(kinds([&served, &second, &third, &fourth]), [regular, None, regular, regular]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_all_are_served_gets_an_extra_place() {
        let places = Places::new(2);
        let served = [enter_and_ask(&places).await, enter_and_ask(&places).await];
        tokio::time::advance(Duration::from_secs(100)).await;
        let silent = futures_util::future::join_all((0..EXTRA).map(|_| enter_silently(&places))).await;
        assert!(silent.iter().all(|place| place.kind() == Kind::Extra));
        let more = enter_and_ask(&places).await;
        assert_eq!(more.kind(), Kind::Extra);
        assert_eq!(silent.iter().filter(|place| place.held_kind().is_none()).count(), 1);
        let start = Instant::now();
        assert!(!more.promote().await, "all others are served");
        assert!((PATIENCE..PATIENCE + 2 * GRACE).contains(&start.elapsed()), "{:?}", start.elapsed());
        drop(served);
        assert!(more.promote().await);
        assert_eq!((more.kind(), places.enter().await.kind()), (Kind::Regular, Kind::Regular));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_regular_place_leaves_extra_ones_to_others() {
        let places = Places::new(1);
        let served = enter_and_ask(&places).await;
        let extra = futures_util::future::join_all((0..WAITING + 5).map(|_| enter_and_ask(&places))).await;
        let start = Instant::now();
        let mut waiting: Vec<_> = extra.iter().map(|place| Box::pin(place.promote())).collect();
        let refused = waiting.iter_mut().filter_map(|one| one.as_mut().now_or_never()).collect::<Vec<_>>();
        assert_eq!(refused, [false; 5], "more than may wait are refused at once");
        // Who comes by now has a place at once, but no regular one before those who wait.
        let late = places.enter().await;
        assert_eq!((late.kind(), start.elapsed()), (Kind::Extra, Duration::ZERO));
        drop(served);
        let newest = places.enter().await;
        assert_eq!(newest.kind(), Kind::Extra);
        waiting.truncate(WAITING);
        let (promoted, ..) = futures_util::future::select_all(waiting).await;
        assert!(promoted && start.elapsed() < GRACE);
        assert_eq!(places.held.lock().waiting, 0, "who is no longer asked about does not wait");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_not_looked_at_keeps_its_place() {
        let places = Places::new(1);
        let new = places.enter().await;
        let other = enter_and_ask(&places).await;
        assert!(!other.promote().await && new.kind() == Kind::Regular);
        new.activity.has_none();
        assert!(other.promote().await);
        assert_eq!(kinds([&new, &other]), [None, Some(Kind::Regular)]);
        assert!(!enter_and_ask(&places).await.promote().await, "a request that was there is served");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_was_on_its_way_wins_the_place_back() {
        let places = Places::new(1);
        let first = enter_silently(&places).await;
        tokio::time::advance(GRACE).await;
        let second = enter_silently(&places).await;
        assert_eq!(kinds([&first, &second]), [None, Some(Kind::Regular)]);
        let is_lost = async |place: &Place| tokio::time::timeout(PATIENCE, place.is_lost()).await.is_ok();
        first.activity.begin();
        assert!(!is_lost(&first).await, "the health check is answered without a place");
        assert!(first.promote().await);
        assert_eq!(kinds([&first, &second]), [Some(Kind::Regular), None]);
        assert!(!is_lost(&first).await && is_lost(&second).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_owes_us_much_of_a_request_is_cut() {
        let places = Places::new(1);
        let slow = enter_and_ask(&places).await;
        slow.activity.waits_to_read(Instant::now());
        tokio::time::advance(TOLERANCE / 2).await;
        assert_eq!(places.enter().await.kind(), Kind::Extra);
        tokio::time::advance(TOLERANCE / 2).await;
        assert_eq!(places.enter().await.kind(), Kind::Regular);
        assert!(slow.activity.is_cut().now_or_never().is_some());
    }
}

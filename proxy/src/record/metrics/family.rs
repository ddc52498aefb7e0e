//! Series found by their labels: a map of the worker's own, and a list for the one who scrapes.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Fitted, SERIES_MAX};

/// Labels that can stand for many.
pub(super) trait Overflow {
    /// The labels under which what has no series of its own is counted.
    fn overflow(&self) -> Self;
}

/// One worker's series of one kind.
pub(super) struct Family<K, S> {
    local: RefCell<HashMap<K, Arc<Entry<S>>, Fast>>,
    list: Arc<List<K, S>>,
}

/// What the admin thread sees of a worker's series. Locked by the worker only to add one.
struct List<K, S>(Mutex<HashMap<K, Arc<Entry<S>>, Fast>>);

/// The lists of all workers.
pub(super) struct Lists<K, S>(Mutex<Vec<Arc<List<K, S>>>>);

/// A series and when it was last used.
pub(super) struct Entry<S> {
    /// In ticks.
    touched: AtomicU64,
    /// How many open connections use it.
    held: AtomicU64,
    /// No longer in the list; counts would be lost.
    expired: AtomicBool,
    series: S,
}

impl<S> Entry<S> {
    pub(super) fn series(&self) -> &S {
        &self.series
    }

    pub(super) fn hold(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn release(&self, now: u64) {
        self.touched.store(now, Ordering::SeqCst);
        self.held.fetch_sub(1, Ordering::SeqCst);
    }

    /// Marks the series as used. False: it expired.
    ///
    /// The worker writes `touched` and then reads `expired`; the admin thread writes `expired` and then reads
    /// `touched`. In sequentially consistent order at least one of them sees the other's write.
    fn touch(&self, now: u64) -> bool {
        if self.touched.load(Ordering::Relaxed) != now {
            self.touched.store(now, Ordering::SeqCst);
        }
        !self.expired.load(Ordering::SeqCst)
    }

    fn is_idle(&self, oldest: u64) -> bool {
        self.held.load(Ordering::SeqCst) == 0 && self.touched.load(Ordering::SeqCst) < oldest
    }
}

impl<K: Clone + Eq + Hash + Overflow, S: Default> Family<K, S> {
    /// Runs `count` on the series of these labels.
    ///
    /// **Cost:** one look into a map; a lock and allocations where the series is new.
    pub(super) fn with(&self, key: &K, now: u64, count: impl FnOnce(&S) -> bool) -> Fitted {
        if let Some(entry) = self.local.borrow().get(key)
            && entry.touch(now)
        {
            return Fitted { series: true, outcome: count(&entry.series) };
        }
        let (entry, series) = self.listed(key, now);
        Fitted { series, outcome: count(&entry.series) }
    }

    /// The series of these labels, and whether it is their own.
    pub(super) fn entry(&self, key: &K, now: u64) -> (Arc<Entry<S>>, bool) {
        if let Some(entry) = self.local.borrow().get(key)
            && entry.touch(now)
        {
            return (Arc::clone(entry), true);
        }
        self.listed(key, now)
    }

    #[cold]
    fn listed(&self, key: &K, now: u64) -> (Arc<Entry<S>>, bool) {
        let mut list = self.list.lock();
        let own = list.contains_key(key) || list.len() < SERIES_MAX;
        let key = if own { key.clone() } else { key.overflow() };
        // Expiry holds this lock: what is in the list now has not expired.
        let entry = list.entry(key.clone()).or_insert_with(|| {
            Arc::new(Entry {
                touched: AtomicU64::new(now),
                held: AtomicU64::new(0),
                expired: AtomicBool::new(false),
                series: S::default(),
            })
        });
        entry.touched.store(now, Ordering::SeqCst);
        let entry = Arc::clone(entry);
        drop(list);
        let mut local = self.local.borrow_mut();
        if local.len() >= 2 * SERIES_MAX {
            local.retain(|_, entry| !entry.expired.load(Ordering::SeqCst));
        }
        local.insert(key, Arc::clone(&entry));
        (entry, own)
    }
}

impl<K, S> List<K, S> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<Entry<S>>, Fast>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, S> Default for Lists<K, S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, S> Lists<K, S> {
    /// A new worker's family.
    pub(super) fn family(&self) -> Family<K, S> {
        let list = Arc::new(List(Mutex::default()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&list));
        Family { local: RefCell::default(), list }
    }

    /// Removes what no worker has touched since `oldest`. A series that lives in one shard stays in all: its sum must
    /// not fall.
    pub(super) fn expire(&self, oldest: u64) {
        let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // No worker adds a series, nor finds one that expired, while this holds all the locks.
        let mut lists: Vec<_> = lists.iter().map(|list| list.lock()).collect();
        let mut idle: HashMap<K, Vec<Arc<Entry<S>>>, Fast> = HashMap::default();
        for list in &lists {
            for (key, entry) in list.iter().filter(|(_, entry)| entry.is_idle(oldest)) {
                idle.entry(key.clone()).or_default().push(Arc::clone(entry));
            }
        }
        #[expect(clippy::iter_over_hash_type, reason = "the result does not depend on the order")]
        for (key, entries) in idle {
            let everywhere = lists.iter().filter(|list| list.contains_key(&key)).count() == entries.len();
            mark(&entries, everywhere);
            if !everywhere {
                continue;
            }
            if entries.iter().all(|entry| entry.is_idle(oldest)) {
                for list in &mut lists {
                    list.remove(&key);
                }
            } else {
                mark(&entries, false);
            }
        }
    }

    /// The series of all workers, put together by their labels as text, in the order of that text.
    pub(super) fn merged(&self, labels: impl Fn(&K) -> String) -> BTreeMap<String, Vec<Arc<Entry<S>>>> {
        let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut merged: BTreeMap<String, Vec<Arc<Entry<S>>>> = BTreeMap::new();
        for list in lists.iter() {
            #[expect(clippy::iter_over_hash_type, reason = "collected into an ordered map")]
            for (key, entry) in list.lock().iter() {
                merged.entry(labels(key)).or_default().push(Arc::clone(entry));
            }
        }
        merged
    }
}

fn mark<S>(entries: &[Arc<Entry<S>>], expired: bool) {
    for entry in entries {
        entry.expired.store(expired, Ordering::SeqCst);
    }
}

type Fast = BuildHasherDefault<FastHasher>;

/// Multiplies and rotates eight bytes at a time (as rustc's `FxHash`). Labels are configuration, so nobody can choose
/// them to collide; and the maps are bounded.
#[derive(Default)]
pub(super) struct FastHasher(u64);

impl FastHasher {
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_ne_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.word(u64::from_ne_bytes(last));
    }

    fn write_u8(&mut self, byte: u8) {
        self.word(u64::from(byte));
    }

    fn finish(&self) -> u64 {
        // hashbrown takes its tag from the top bits and its place from the bottom ones.
        self.0 ^ (self.0 >> 32)
    }
}

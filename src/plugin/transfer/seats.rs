//! How many transfers run at a time, in all and for one client.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use prometheus::IntGauge;

/// Transfers of the whole process. Each holds two messages, and a list of what is still to come.
pub(super) const TRANSFERS_MAX: usize = 32;

/// Transfers to one address. A secondary has a connection a zone at most.
pub(super) const TRANSFERS_PER_CLIENT_MAX: usize = 8;

/// Counts the transfers that run.
pub(super) struct Seats {
    taken: Mutex<HashMap<IpAddr, usize>>,
    gauge: IntGauge,
}

impl Seats {
    pub(super) fn new(gauge: IntGauge) -> Self {
        Self {
            taken: Mutex::default(),
            gauge,
        }
    }

    /// Room for one more transfer to this client; none if there are too many.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Seat> {
        let mut taken = self.taken();
        if taken.values().sum::<usize>() >= TRANSFERS_MAX
            || taken.get(&client).copied().unwrap_or_default() >= TRANSFERS_PER_CLIENT_MAX
        {
            return None;
        }
        *taken.entry(client).or_default() += 1;
        self.gauge.inc();
        Some(Seat {
            seats: Arc::clone(self),
            client,
        })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One running transfer, for as long as it lives.
pub(super) struct Seat {
    seats: Arc<Seats>,
    client: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(count) = taken.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.client);
            }
        }
        self.seats.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_bounded_for_a_client_and_in_all_and_free_again_when_left() {
        let gauge = IntGauge::new("running", "running").unwrap();
        let seats = Arc::new(Seats::new(gauge.clone()));
        let client = |number: usize| IpAddr::from([192, 0, 2, u8::try_from(number).unwrap()]);
        let mut taken: Vec<Seat> = Vec::new();
        for number in 0..TRANSFERS_MAX / TRANSFERS_PER_CLIENT_MAX {
            let of_client = (0..).map_while(|_| seats.take(client(number)));
            let of_client: Vec<Seat> = of_client.collect();
            assert_eq!(of_client.len(), TRANSFERS_PER_CLIENT_MAX);
            taken.extend(of_client);
        }
        assert!(seats.take(client(200)).is_none());
        assert_eq!(usize::try_from(gauge.get()), Ok(TRANSFERS_MAX));
        taken.pop();
        assert!(seats.take(client(200)).is_some());
        taken.clear();
        assert_eq!(gauge.get(), 0);
        assert!(seats.taken().is_empty());
    }
}

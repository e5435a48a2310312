//! Where a session goes: which route, which cluster, which endpoint, and why.
//!
//! Pure: what the network did and what time it is are arguments, chance comes from a seed. It opens no socket, reads no
//! clock and knows no protocol; whoever embeds it says what became of each choice.

mod budget;
mod chance;
mod choose;
mod endpoint;
mod roster;
mod set;
mod settings;
mod state;
mod table;

pub use budget::Budget;
pub use chance::{Chance, hash_of};
pub use choose::{Ask, Why};
pub use endpoint::{Announced, Endpoint, Lease, Opening, WEIGHT_MAX};
pub use roster::{Announcement, Changed, ENDPOINTS_MAX, Roster, STATIC};
pub use settings::{Breaker, Outlier, Policy, Settings};
pub use state::{Finding, State, Thresholds};

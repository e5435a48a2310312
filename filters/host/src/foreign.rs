//! Functions that the edge offers to filters by name (`proxy_call_foreign_function`). As in Envoy, a
//! name that nobody registered is answered `NotFound`.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a foreign function gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignRefusal {
    /// The argument is not what the function takes.
    BadArgument,
    /// What was asked for is not there.
    NotFound,
    /// It could not be done.
    Failed,
}

type Function = dyn Fn(&[u8]) -> Result<Vec<u8>, ForeignRefusal> + Send + Sync;

/// Functions by name. They run on the worker's thread and outside the filter's CPU budget: they must be quick.
#[derive(Clone)]
pub struct ForeignFunctions(BTreeMap<String, Arc<Function>>);

impl Default for ForeignFunctions {
    /// What Envoy's own modules call and what has a meaning here: `clear_route_cache`, which is answered
    /// well and does nothing, for a route is chosen before its filters run.
    fn default() -> Self {
        ForeignFunctions(BTreeMap::new()).with("clear_route_cache", |_| Ok(Vec::new()))
    }
}

impl ForeignFunctions {
    /// Adds a function, or replaces the one of this name.
    #[must_use]
    pub fn with(
        mut self,
        name: &str,
        function: impl Fn(&[u8]) -> Result<Vec<u8>, ForeignRefusal> + Send + Sync + 'static,
    ) -> Self {
        self.0.insert(name.to_owned(), Arc::new(function));
        self
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<Arc<Function>> {
        self.0.get(str::from_utf8(name).ok()?).cloned()
    }
}

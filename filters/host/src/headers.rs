//! HTTP headers as a filter sees them: order kept, names in lower case, pseudo-headers
//! (`:method` `:path` `:authority` `:scheme` `:status`) among them. Knows no HTTP library.

/// A header map. Lookups are linear: a handshake has a few dozen entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    entries: Vec<(String, String)>,
}

impl Headers {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first value of `name` (any case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Every value of `name` (any case), in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.entries.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Replaces every value of `name` by one, at the place of the first.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        match self.entries.iter().position(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some(first) => {
                self.entries[first].1 = value.into();
                let mut place = 0;
                self.entries.retain(|(n, _)| {
                    place += 1;
                    place - 1 <= first || !n.eq_ignore_ascii_case(name)
                });
            }
            None => self.add(name, value),
        }
    }

    /// Adds a value behind those that are there.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        self.entries.push((name.to_ascii_lowercase(), value.into()));
    }

    /// Removes every value of `name`; says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.entries.len() != before
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Name and value, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.entries.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// Entries, counting repeated names.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all names and values, as `proxy_get_header_map_size` reports them.
    pub fn byte_size(&self) -> usize {
        self.entries.iter().map(|(n, v)| n.len() + v.len()).sum()
    }
}

impl<N: AsRef<str>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let mut headers = Headers::new();
        for (name, value) in entries {
            headers.add(name.as_ref(), value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_order_is_kept() {
        let mut headers: Headers = [(":path", "/ws"), ("Host", "a"), ("x", "1"), ("X", "2")].into_iter().collect();
        assert_eq!(headers.get("HOST"), Some("a"));
        assert_eq!(headers.get_all("x").collect::<Vec<_>>(), ["1", "2"]);
        headers.set("x", "3");
        assert_eq!(headers.iter().collect::<Vec<_>>(), [(":path", "/ws"), ("host", "a"), ("x", "3")]);
        assert!(headers.remove("Host"));
        assert!(!headers.remove("Host"));
        assert_eq!(headers.byte_size(), 5 + 3 + 1 + 1);
    }
}

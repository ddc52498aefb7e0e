//! Who selects whom, found without comparing every selector with every workload: both are filed by label.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::links::Links;
use crate::object::Name;

type Labels = BTreeMap<String, String>;

/// A label of something in a namespace, as `key=value`.
type Filed = (Arc<str>, String);

/// Workloads by each of their labels, and Services by one of their selector's.
#[derive(Debug, Default)]
pub(super) struct Selection {
    workloads: Links<Filed>,
    services: Links<Filed>,
    /// Under which label each Service is filed.
    filed: BTreeMap<Name, Filed>,
}

impl Selection {
    /// Takes note of a workload's labels.
    pub(super) fn add_workload(&mut self, name: &Name, labels: &Labels) {
        self.workloads.link(filings(&name.namespace, labels), name);
    }

    pub(super) fn remove_workload(&mut self, name: &Name, labels: &Labels) {
        self.workloads.unlink(filings(&name.namespace, labels), name);
    }

    /// Takes note of a Service's selector. Of its labels the one counts that the fewest Services are filed under, so that a label
    /// that all have tells none of them apart.
    pub(super) fn add_service(&mut self, name: &Name, selector: &Labels) {
        if let Some(label) = filings(&name.namespace, selector).min_by_key(|label| self.services.count(label)) {
            self.services.link([label.clone()], name);
            self.filed.insert(name.clone(), label);
        }
    }

    pub(super) fn remove_service(&mut self, name: &Name) {
        if let Some(label) = self.filed.remove(name) {
            self.services.unlink([label], name);
        }
    }

    /// The Services that may select a workload with these labels, by name: all that do, and few that do not.
    pub(super) fn services_for(&self, namespace: &Arc<str>, labels: &Labels) -> Vec<&Name> {
        let mut found: Vec<&Name> =
            filings(namespace, labels).flat_map(|label| self.services.of(&label).collect::<Vec<_>>()).collect();
        found.sort_unstable();
        found
    }

    /// The workloads that a selector may select, by name: all that it does, and few that it does not. `None` where nothing is asked
    /// for, which selects every workload.
    pub(super) fn workloads_for<'s>(
        &'s self,
        namespace: &Arc<str>,
        selector: &Labels,
    ) -> Option<impl Iterator<Item = &'s Name> + use<'s>> {
        let rarest = filings(namespace, selector).min_by_key(|label| self.workloads.count(label))?;
        Some(self.workloads.of(&rarest))
    }
}

fn filings<'a>(namespace: &'a Arc<str>, labels: &'a Labels) -> impl Iterator<Item = Filed> + 'a {
    labels.iter().map(|(key, value)| (Arc::clone(namespace), format!("{key}={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_label_that_every_selector_has_tells_no_service_apart() {
        let mut selection = Selection::default();
        let shop = Arc::<str>::from("shop");
        for i in 0..100 {
            let selector = labels(&[("component", "server"), ("name", &format!("s{i}"))]);
            selection.add_service(&Name::new("shop", &format!("s{i}")), &selector);
        }
        let found = selection.services_for(&shop, &labels(&[("component", "server"), ("name", "s7")]));
        assert!(found.contains(&&Name::new("shop", "s7")) && found.len() <= 2, "{found:?}");
        selection.remove_service(&Name::new("shop", "s7"));
        let found = selection.services_for(&shop, &labels(&[("component", "server"), ("name", "s7")]));
        assert!(!found.contains(&&Name::new("shop", "s7")), "{found:?}");
    }

    #[test]
    fn workloads_are_found_by_the_rarest_label() {
        let mut selection = Selection::default();
        let shop = Arc::<str>::from("shop");
        for i in 0..100 {
            let of = labels(&[("component", "server"), ("name", &format!("w{i}"))]);
            selection.add_workload(&Name::new("shop", &format!("w{i}")), &of);
        }
        let selector = labels(&[("component", "server"), ("name", "w7")]);
        assert_eq!(selection.workloads_for(&shop, &selector).unwrap().collect::<Vec<_>>(), [&Name::new("shop", "w7")]);
        assert_eq!(selection.workloads_for(&Arc::from("other"), &selector).unwrap().count(), 0);
        assert!(selection.workloads_for(&shop, &labels(&[])).is_none());
    }
}

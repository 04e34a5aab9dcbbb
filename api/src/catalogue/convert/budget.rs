//! Disruption budgets of `policy/v1beta1`, where an empty selector selects
//! nothing. In `policy/v1` it selects everything, so a selector that no pod
//! matches stands for it.

use serde_json::{Value, json};

/// The label that no pod has.
const NOTHING: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

/// Rewrites a v1beta1 budget into a v1 one.
pub(in crate::catalogue) fn to_v1(budget: &mut Value) {
    if let Some(selector) = budget.pointer_mut("/spec/selector")
        && selector.as_object().is_some_and(serde_json::Map::is_empty)
    {
        *selector = nothing();
    }
}

/// Rewrites a v1 budget into a v1beta1 one.
pub(in crate::catalogue) fn from_v1(budget: &mut Value) {
    if let Some(selector) = budget.pointer_mut("/spec/selector")
        && *selector == nothing()
    {
        *selector = json!({});
    }
}

fn nothing() -> Value {
    json!({"matchExpressions": [{"key": NOTHING, "operator": "Exists"}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_selector_goes_on_selecting_nothing() {
        let old = json!({"spec": {"selector": {}}});
        let mut budget = old.clone();
        to_v1(&mut budget);
        assert_eq!(budget["spec"]["selector"], nothing());
        from_v1(&mut budget);
        assert_eq!(budget, old);
    }

    #[test]
    fn other_selectors_stay() {
        for object in
            [json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}), json!({"spec": {}})]
        {
            let mut budget = object.clone();
            to_v1(&mut budget);
            from_v1(&mut budget);
            assert_eq!(budget, object);
        }
    }
}

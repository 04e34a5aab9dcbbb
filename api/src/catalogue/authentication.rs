//! Reviews: questions about who someone is and what they may do. They are
//! answered in the response to a create and never stored.

use k8s_openapi::api::authentication::v1 as authn;
use k8s_openapi::api::authorization::v1 as authz;

use super::{Resource, Typed};

/// What the first list have in common.
const BASE_AUTHN: Resource = Resource {
    group: "authentication.k8s.io",
    version: "v1",
    behaviour: &Typed::<authn::TokenReview>::PLAIN,
    ..Resource::BASE
};

/// What the second list have in common.
const BASE_AUTHZ: Resource = Resource {
    group: "authorization.k8s.io",
    version: "v1",
    behaviour: &Typed::<authz::SubjectAccessReview>::PLAIN,
    ..Resource::BASE
};

pub(super) const AUTHENTICATION: &[Resource] = &[
    Resource {
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        namespaced: false,
        verbs: &["create"],
        behaviour: &Typed::<authn::SelfSubjectReview>::PLAIN,
        ..BASE_AUTHN
    },
    Resource {
        kind: "TokenReview",
        plural: "tokenreviews",
        singular: "tokenreview",
        namespaced: false,
        verbs: &["create"],
        behaviour: &Typed::<authn::TokenReview>::PLAIN,
        ..BASE_AUTHN
    },
];

pub(super) const AUTHORIZATION: &[Resource] = &[
    Resource {
        kind: "LocalSubjectAccessReview",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        verbs: &["create"],
        behaviour: &Typed::<authz::LocalSubjectAccessReview>::PLAIN,
        ..BASE_AUTHZ
    },
    Resource {
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        namespaced: false,
        verbs: &["create"],
        behaviour: &Typed::<authz::SelfSubjectAccessReview>::PLAIN,
        ..BASE_AUTHZ
    },
    Resource {
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        namespaced: false,
        verbs: &["create"],
        behaviour: &Typed::<authz::SelfSubjectRulesReview>::PLAIN,
        ..BASE_AUTHZ
    },
    Resource {
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        namespaced: false,
        verbs: &["create"],
        behaviour: &Typed::<authz::SubjectAccessReview>::PLAIN,
        ..BASE_AUTHZ
    },
];

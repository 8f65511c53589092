//! Waiting for a guest: for its agent, which is part of a start, and for its image's services, which is not.

pub(super) mod agent;
pub(super) mod boot;

//! The tenants that are declared, with their weights.

use crate::error::positive;
use crate::{SchedulerError, TenantId};

/// Weights by tenant; [`TenantId::DEFAULT`] is there from the beginning, with weight 1.
#[derive(Clone, Debug)]
pub(crate) struct Tenants(Vec<Option<f64>>);

impl Default for Tenants {
    fn default() -> Self {
        Self(vec![Some(1.0)])
    }
}

impl Tenants {
    /// Declares a tenant, or changes its weight.
    pub(crate) fn declare(&mut self, tenant: TenantId, weight: f64) -> Result<(), SchedulerError> {
        let weight = positive("the weight of a tenant", weight)?;
        if tenant.0 > TenantId::MOST {
            return Err(SchedulerError::TenantTooLarge { id: tenant, most: TenantId::MOST });
        }
        let at = tenant.0 as usize;
        if at >= self.0.len() {
            self.0.resize(at + 1, None);
        }
        self.0[at] = Some(weight);
        Ok(())
    }

    /// Whether a tenant is declared.
    pub(crate) fn check(&self, tenant: TenantId) -> Result<(), SchedulerError> {
        match self.0.get(tenant.0 as usize) {
            Some(Some(_)) => Ok(()),
            _ => Err(SchedulerError::UnknownTenant { id: tenant }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_declared_before_they_are_used() {
        let mut tenants = Tenants::default();
        assert!(tenants.check(TenantId::DEFAULT).is_ok());
        assert_eq!(tenants.check(TenantId(2)), Err(SchedulerError::UnknownTenant { id: TenantId(2) }));
        tenants.declare(TenantId(3), 2.0).expect("a good weight");
        assert!(tenants.check(TenantId(3)).is_ok() && tenants.check(TenantId(2)).is_err());
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(tenants.declare(TenantId(1), weight).is_err());
        }
        // A million of them, whose tables fit in memory.
        assert_eq!(TenantId::MOST, 1_048_575);
        assert!(tenants.declare(TenantId(1_048_575), 1.0).is_ok());
        assert!(tenants.declare(TenantId(1_048_576), 1.0).is_err());
    }
}

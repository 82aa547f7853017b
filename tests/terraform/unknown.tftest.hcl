# Inputs that are unknown at plan, because the caller makes them in the same apply. Nothing may be
# counted by them.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
}

run "resources_of_the_same_apply" {
  command = plan

  module {
    source = "./tests/terraform/fixtures/unknown"
  }

  assert {
    condition     = length(module.firebolt_cdc.schedule_rule_names) == 4
    error_message = "The first plan of a caller who makes bucket, key, secret, role, topic and network together succeeds."
  }
}

run "applied_together" {
  module {
    source = "./tests/terraform/fixtures/unknown"
  }

  assert {
    condition     = module.firebolt_cdc.dashboard_name == "fair-dev-eu-west-1"
    error_message = "The apply succeeds too."
  }
}

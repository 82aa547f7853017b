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

# A queue whose name is unknown is replaced, and its messages are gone with it.
run "queues_keep_their_names" {
  command = plan

  module {
    source = "./tests/terraform/fixtures/deferred"
  }

  assert {
    condition     = [module.intake.queue_name, module.intake.dead_letter_queue_name, module.intake.rule_dead_letter_queue_name] == ["fair-dev-files", "fair-dev-files-dlq", "fair-dev-rule-dlq"]
    error_message = "The names of the queues are known though neither account nor region is."
  }

  assert {
    condition     = length(module.firebolt_cdc.schedule_rule_names) == 4
    error_message = "The whole module plans without them: what is checked against the region is checked in the apply."
  }
}

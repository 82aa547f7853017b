# A file waits as a delayed copy of its message on the loader's own queue. Lambda takes that for an endless loop, and
# drops the message after about 16 rounds, unless the loader is allowed to.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
}

variables {
  name          = "fair-dev"
  source_bucket = { name = "fair-source", prefix = "firebolt_dms_job/" }
  firebolt      = { database = "firebolt", core_url = "http://core.internal:3473" }
  tables        = { "fair/sessions" = { primary_key = ["sid"] }, "fair/events" = {} }
  package_s3    = { bucket = "releases", key = "firebolt-cdc.zip" }
}

run "the_loader_only" {
  assert {
    condition = { for name, module in { loader = module.loader, cleanup = module.cleanup, migrate = module.migrate } : name => module.recursive_loop } == {
      loader  = "Allow"
      cleanup = null
      migrate = null
    }
    error_message = "The loader may go on for as long as a file waits; the other functions send nothing to what starts them, and keep Lambda's guard."
  }
}

run "before_the_first_message" {
  command = plan

  plan_options {
    target = [aws_lambda_event_source_mapping.this]
  }

  module {
    source = "./tests/terraform/fixtures/fed"
  }

  # The plan of one resource holds what that resource depends on, and nothing else.
  assert {
    condition     = output.recursive_loop == "Allow"
    error_message = "No message reaches a function before it may loop."
  }
}

# What a caller gets who sets only what must be set.

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

run "defaults" {
  assert {
    condition     = [output.loader_function_name, output.cleanup_function_name, output.migrate_function_name] == ["fair-dev-loader", "fair-dev-cleanup", "fair-dev-migrate"]
    error_message = "The functions are named after the pipeline."
  }

  assert {
    condition     = output.functions.loader.log_group == "/aws/lambda/fair-dev-loader"
    error_message = "The loader's log group has the name that `aws logs tail /aws/lambda/FUNCTION` expects."
  }

  assert {
    condition     = output.module_bucket == "fair-dev-123456789012-eu-west-1"
    error_message = "The module's bucket is named after pipeline, account and region, so that it is unique."
  }

  assert {
    condition     = aws_lambda_event_source_mapping.loader.function_name == output.functions.loader.alias_arn
    error_message = "The queue feeds the alias PROD, not the newest code."
  }

  assert {
    condition     = aws_lambda_event_source_mapping.loader.function_response_types == toset(["ReportBatchItemFailures"])
    error_message = "A batch reports its failures file by file."
  }

  assert {
    condition     = aws_lambda_event_source_mapping.loader.scaling_config[0].maximum_concurrency == 10
    error_message = "Concurrency is limited at the event source."
  }

  assert {
    condition     = aws_lambda_event_source_mapping.loader.enabled
    error_message = "The loader is not paused."
  }

  assert {
    condition     = jsondecode(aws_lambda_invocation.migrate[0].input).action == "migrate"
    error_message = "The apply invokes the migrate function with the action \"migrate\"."
  }

  assert {
    condition     = jsondecode(aws_lambda_invocation.migrate[0].input).config_version_id == "config-version-1"
    error_message = "Another configuration invokes it again."
  }

  assert {
    condition     = jsondecode(aws_lambda_invocation.migrate[0].input).package == "releases/firebolt-cdc.zip"
    error_message = "Another package invokes it again."
  }

  assert {
    condition     = jsondecode(aws_lambda_invocation.migrate[0].input).migrations_sha256 == local.migrations_sha256
    error_message = "Other migrations invoke it again."
  }

  assert {
    condition     = aws_lambda_invocation.migrate[0].qualifier == "PROD"
    error_message = "Migrations run from the published version."
  }

  assert {
    condition     = output.dashboard_name == "fair-dev-eu-west-1"
    error_message = "There is one dashboard, named after pipeline and region."
  }

  assert {
    condition     = length(output.alarm_arns) >= 20
    error_message = "Alarms are on unless switched off."
  }
}

run "what_a_caller_checks" {
  command = plan

  variables {
    tables = {
      "fair/sessions" = { target = "dim_session", primary_key = ["tenant", "sid"] }
      "fair/typos"    = { primary_keys = ["id"] }
    }
  }

  assert {
    condition = jsonencode(output.tables) == jsonencode({
      "fair/sessions" = { target = "dim_session", mode = "merge", primary_key = ["tenant", "sid"] }
      "fair/typos"    = { target = "typos", mode = "append", primary_key = [] }
    })
    error_message = "The plan says what was understood of each table; a misspelt attribute is dropped in silence."
  }

  assert {
    condition     = output.pipeline == "fair-source/firebolt_dms_job/"
    error_message = "The name that owns targets and ledger rows is bucket and prefix, as Source.pipeline in handler/firebolt_cdc/config.py."
  }

  assert {
    condition     = output.package.identity == "releases/firebolt-cdc.zip" && output.package.bucket == "releases"
    error_message = "The output names the package that runs."
  }
}

run "memory_to_migrate" {
  command = plan

  variables {
    migrations = { memory_mb = 4096 }
  }

  assert {
    condition     = output.functions.migrate.memory_mb == 4096 && output.functions.loader.memory_mb == 2048
    error_message = "The migrate function gets the memory that a large adoption needs."
  }
}

run "migrations_can_be_left_to_a_pipeline" {
  variables {
    migrations = { run_on_apply = false }
  }

  assert {
    condition     = length(aws_lambda_invocation.migrate) == 0 && output.migration_result == null
    error_message = "With run_on_apply = false the apply invokes nothing."
  }
}

run "paused" {
  variables {
    loader = { paused = true }
  }

  assert {
    condition     = !aws_lambda_event_source_mapping.loader.enabled
    error_message = "loader.paused stops the event source and keeps the messages."
  }
}

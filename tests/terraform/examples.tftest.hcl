# The examples plan as they stand.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
}

run "complete" {
  command = plan

  module {
    source = "./examples/complete"
  }

  variables {
    source_bucket          = "fair-prod-dms"
    subnet_ids             = ["subnet-1"]
    security_group_ids     = ["sg-1"]
    firebolt_principal_arn = "arn:aws:iam::999999999999:root"
    firebolt_external_id   = "external"
    package_s3             = { bucket = "releases", key = "firebolt-cdc.zip" }
  }

  assert {
    condition     = output.dashboard == "fair-prod-eu-west-1"
    error_message = "examples/complete plans."
  }
}

run "multi_environment" {
  command = plan

  module {
    source = "./examples/multi-environment"
  }

  variables {
    environment   = "dev"
    source_bucket = "fair-dev-dms"
    firebolt = {
      account_name = "fair"
      engine_name  = "cdc_dev"
      database     = "fair_dev"
      secret_arn   = "arn:aws:secretsmanager:eu-west-1:111111111111:secret:fair-dev/firebolt-AbCdEf"
      s3_role_arn  = "arn:aws:iam::111111111111:role/fair-dev-firebolt"
    }
    package_s3 = { bucket = "fair-releases", key = "firebolt-cdc/0.1.0/firebolt-cdc.zip" }
    loader     = { paused = true }
  }

  assert {
    condition     = module.firebolt_cdc.loader_function_name == "fair-dev-loader"
    error_message = "examples/multi-environment plans."
  }

  assert {
    condition     = output.functions.loader.memory_mb == 2048 && output.tables["fair/sessions"].mode == "merge"
    error_message = "What an environment leaves out has the module's default."
  }

  assert {
    condition     = contains(flatten([for statement in jsondecode(output.firebolt_s3_policy).Statement : statement.Resource]), "arn:aws:s3:::fair-dev-dms/firebolt_dms_job/*")
    error_message = "An environment says what the role that its file names needs."
  }
}

run "one_provider" {
  command = plan

  module {
    source = "./tests/terraform/fixtures/files"
  }

  assert {
    condition     = output.aws_constraints == toset([">= 5.76, < 7"])
    error_message = "Module, parts and examples ask for one and the same provider. Before 5.76 it refuses python3.13, the default runtime."
  }
}

# Terraform drops an attribute that an object type does not name, in silence.
run "nothing_is_dropped_on_the_way" {
  command = plan

  module {
    source = "./tests/terraform/fixtures/files"
  }

  assert {
    condition     = keys(output.lacking) == ["firebolt", "loader", "package_s3"] && alltrue([for attributes in concat(values(output.lacking), values(output.unknown)) : length(attributes) == 0])
    error_message = "examples/multi-environment hands on every attribute of the module's variables, and no other: what an environment's file sets arrives."
  }
}

# Packages, published versions and rolling back.

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

run "newest_version" {
  assert {
    condition     = output.functions.loader.live_version == "7" && output.functions.loader.newest_version == "7"
    error_message = "The alias follows the newest version."
  }

  assert {
    condition     = local.function.environment.CDC_CONFIG_VERSION_ID == "config-version-1"
    error_message = "A published version names the version of its configuration."
  }

  assert {
    condition     = local.function.environment.HOME == "/tmp" && local.function.environment.POWERTOOLS_SERVICE_NAME == "fair-dev"
    error_message = "The functions know their name, and where they may write."
  }

  assert {
    condition     = length(aws_s3_object.package) == 0 && local.package.bucket == "releases"
    error_message = "A released package is used where it stands."
  }
}

run "rolled_back" {
  variables {
    live_version = 3
  }

  assert {
    condition     = output.functions.loader.live_version == "3" && output.functions.loader.newest_version == "7"
    error_message = "live_version pins the loader's alias; the newest version stays published."
  }

  assert {
    condition     = output.functions.cleanup.live_version == "7" && output.functions.migrate.live_version == "7"
    error_message = "The other functions stay at the newest version."
  }
}

run "package_from_a_file" {
  variables {
    package_s3   = null
    package_path = "tests/terraform/fixtures/package.txt"
  }

  assert {
    condition     = aws_s3_object.package[0].key == "package/firebolt-cdc-${filesha256("tests/terraform/fixtures/package.txt")}.zip"
    error_message = "The key holds the hash, so that the same bytes are no change on any machine."
  }
}

run "package_not_built" {
  command = plan

  variables {
    package_s3   = null
    package_path = "tests/terraform/fixtures/no-such-package.zip"
  }

  expect_failures = [aws_s3_object.package]
}

run "user_environment" {
  variables {
    loader = { environment = { AWS_ENDPOINT_URL = "http://127.0.0.1:4566" } }
  }

  assert {
    condition     = local.function.environment.AWS_ENDPOINT_URL == "http://127.0.0.1:4566"
    error_message = "Callers can add variables."
  }

  assert {
    condition     = local.function.environment.POWERTOOLS_METRICS_NAMESPACE == "FireboltCdc"
    error_message = "Metrics go where the alarms look for them."
  }
}

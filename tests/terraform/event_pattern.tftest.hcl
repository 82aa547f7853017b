# Which events reach the queue.

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

run "prefix_and_suffix" {
  assert {
    condition = jsondecode(output.event_pattern) == {
      source        = ["aws.s3"]
      "detail-type" = ["Object Created"]
      detail = {
        bucket = { name = ["fair-source"] }
        object = { key = [{ wildcard = "firebolt_dms_job/*.parquet" }] }
      }
    }
    error_message = "Objects created in the bucket whose key has both prefix and suffix, and nothing else. Two entries in the list would match either."
  }
}

run "suffix_only" {
  variables {
    source_bucket = { name = "fair-source" }
  }

  assert {
    condition     = jsondecode(output.event_pattern).detail.object.key == [{ suffix = ".parquet" }]
    error_message = "Without a prefix the suffix alone is matched."
  }
}

run "prefix_only" {
  variables {
    source_bucket = { name = "fair-source", prefix = "firebolt_dms_job/", suffix = "" }
  }

  assert {
    condition     = jsondecode(output.event_pattern).detail.object.key == [{ prefix = "firebolt_dms_job/" }]
    error_message = "Without a suffix the prefix alone is matched."
  }
}

run "whole_bucket" {
  variables {
    source_bucket = { name = "fair-source", suffix = "" }
  }

  assert {
    condition     = jsondecode(output.event_pattern).detail == { bucket = { name = ["fair-source"] } }
    error_message = "Without either, every object of the bucket is wanted."
  }
}

# Batches within the limits of Lambda and SQS, which an emulator does not enforce.

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

run "defaults_fit" {
  assert {
    condition     = aws_lambda_event_source_mapping.loader.batch_size <= 10 || aws_lambda_event_source_mapping.loader.maximum_batching_window_in_seconds >= 1
    error_message = "Lambda refuses a batch above 10 without a window."
  }

  assert {
    condition     = local.visibility_timeout_seconds >= 6 * var.loader.timeout_seconds + aws_lambda_event_source_mapping.loader.maximum_batching_window_in_seconds
    error_message = "A message stays hidden for six timeouts and the window, or it is delivered while it is still being loaded."
  }

  assert {
    condition     = local.visibility_timeout_seconds <= 43200
    error_message = "SQS hides a message for 12 hours at most."
  }
}

run "largest_timeout_fits" {
  variables {
    loader = { timeout_seconds = 900, batch_window_seconds = 300 }
  }

  assert {
    condition     = local.visibility_timeout_seconds == 5700
    error_message = "The visibility timeout follows the loader's timeout and the window."
  }
}

run "small_batch_needs_no_window" {
  command = plan

  variables {
    loader = { batch_size = 10, batch_window_seconds = 0 }
  }

  assert {
    condition     = aws_lambda_event_source_mapping.loader.batch_size == 10
    error_message = "Ten messages may be taken at once without waiting."
  }
}

run "visibility_shorter_than_six_timeouts" {
  command = plan

  variables {
    loader = { timeout_seconds = 300 }
    queue  = { visibility_timeout_seconds = 1799 }
  }

  expect_failures = [var.queue]
}

run "visibility_of_six_timeouts" {
  command = plan

  variables {
    loader = { timeout_seconds = 300 }
    queue  = { visibility_timeout_seconds = 1800 }
  }

  assert {
    condition     = local.visibility_timeout_seconds == 1800
    error_message = "Six timeouts are enough, and the caller's value is used."
  }
}

run "dead_letters_that_expire_first" {
  command = plan

  variables {
    queue = { retention_seconds = 604800, dead_letter_retention_seconds = 604800 }
  }

  expect_failures = [var.queue]
}

run "receives_that_crashes_use_up" {
  command = plan

  variables {
    queue = { max_receive_count = 3 }
  }

  expect_failures = [var.queue]
}

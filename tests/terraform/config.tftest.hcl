# The configuration object, which the handler reads with unknown keys as errors.

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

run "complete_with_defaults" {
  assert {
    condition = toset(keys(jsondecode(output.config_json))) == toset([
      "config_version", "name", "region", "source", "firebolt", "queue", "staging", "deduplication_enabled",
      "unlisted_tables", "tables", "loader", "cleanup", "metrics_namespace",
    ])
    error_message = "The configuration has the keys that the handler knows, and no others."
  }

  assert {
    condition = jsondecode(output.config_json).source == {
      bucket      = "fair-source"
      prefix      = "firebolt_dms_job/"
      suffix      = ".parquet"
      start_after = null
    }
    error_message = "The source is written out with its defaults."
  }

  assert {
    condition = jsondecode(output.config_json).firebolt == {
      account_name        = null
      database            = "firebolt"
      engine_name         = null
      api_endpoint        = "api.app.firebolt.io"
      secret_arn          = null
      core_url            = "http://core.internal:3473"
      source_location     = null
      staging_location    = null
      s3_role_arn         = null
      s3_role_external_id = null
    }
    error_message = "The connection is written out with its defaults, and holds no secret."
  }

  assert {
    condition = jsondecode(output.config_json).queue == {
      url            = "https://sqs.eu-west-1.amazonaws.com/123456789012/fair-dev-files"
      arn            = "arn:aws:sqs:eu-west-1:123456789012:fair-dev-files"
      dlq_url        = "https://sqs.eu-west-1.amazonaws.com/123456789012/fair-dev-files-dlq"
      dlq_arn        = "arn:aws:sqs:eu-west-1:123456789012:fair-dev-files-dlq"
      target_dlq_url = "https://sqs.eu-west-1.amazonaws.com/123456789012/fair-dev-rule-dlq"
    }
    error_message = "The configuration names the queue and both dead letter queues."
  }

  assert {
    condition = jsondecode(output.config_json).tables["fair/sessions"] == {
      target        = "sessions"
      mode          = "merge"
      primary_key   = ["sid"]
      files         = { path = "fair/sessions/", full_load = "LOAD[0-9A-Fa-f]{8,}", changes = "(?P<stamp>[0-9]{8}-[0-9]{1,20})" }
      order         = { by = "file", column = null, columns = [] }
      op            = { column = "Op", insert = ["I"], update = ["U"], delete = ["D"] }
      delete_marker = null
      before_image  = null
      deletes       = "hard"
      schema_drift  = "add"
      missing_table = "create"
      reload        = "hold"
    }
    error_message = "A table with a key is merged into the table of its own name, ordered by file."
  }

  assert {
    condition     = jsondecode(output.config_json).tables["fair/events"].mode == "append"
    error_message = "A table without a key is appended to."
  }

  assert {
    condition     = jsondecode(output.config_json).cleanup == { retention_days = 30, sweep_interval_seconds = 300, queue_limit = 1000, reconcile_grace_seconds = 900, reload_quiet_seconds = 900 }
    error_message = "The sweep's interval is its schedule's rate; ledger rows are kept for 30 days."
  }

  assert {
    condition     = jsondecode(output.config_json).staging == { bucket = output.module_bucket, prefix = "staging/" }
    error_message = "Staged files go to the module's bucket."
  }

  assert {
    condition     = jsondecode(output.config_json).config_version == 1 && jsondecode(output.config_json).region == "eu-west-1"
    error_message = "The configuration names its version and region."
  }
}

# What is left out is computed: what stood there before would stay for ever.
run "encrypted_as_asked" {
  assert {
    condition     = aws_s3_object.config.server_side_encryption == "AES256" && !aws_s3_object.config.bucket_key_enabled
    error_message = "Without a customer key the configuration is encrypted with S3's own."
  }
}

run "encrypted_with_a_key" {
  variables {
    encryption = { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/module" }
  }

  assert {
    condition     = aws_s3_object.config.server_side_encryption == "aws:kms" && aws_s3_object.config.kms_key_id == "arn:aws:kms:eu-west-1:123456789012:key/module"
    error_message = "The configuration is encrypted with the key that is asked for, whatever it was before."
  }
}

run "values_of_the_caller" {
  variables {
    source_bucket         = { name = "fair-source", suffix = "", start_after = "2024-11-24T00:00:00Z" }
    deduplication_enabled = false
    unlisted_tables       = "append"
    cleanup               = { sweep_schedule = "rate(2 hours)", retention_days = 90 }
    tables = {
      "fair/sessions" = {
        target      = "dim_session"
        primary_key = ["tenant", "sid"]
        order       = { by = "change_seq", column = "AR_H_CHANGE_SEQ" }
        deletes     = "soft"
      }
    }
  }

  assert {
    condition     = jsondecode(output.config_json).cleanup.sweep_interval_seconds == 7200
    error_message = "A slower sweep sends files again less often."
  }

  assert {
    condition     = !jsondecode(output.config_json).deduplication_enabled
    error_message = "Deduplication is switched off by one variable."
  }

  assert {
    condition     = jsondecode(output.config_json).source.start_after == "2024-11-24T00:00:00Z"
    error_message = "The start is passed on as it was written."
  }

  assert {
    condition     = jsondecode(output.config_json).tables["fair/sessions"].order == { by = "change_seq", column = "AR_H_CHANGE_SEQ", columns = [] }
    error_message = "The order's column is passed on."
  }

  assert {
    condition     = jsondecode(output.config_json).tables["fair/sessions"].target == "dim_session"
    error_message = "The target is the caller's."
  }
}

run "a_source_that_is_not_dms" {
  variables {
    tables = {
      "shop/orders" = {
        primary_key   = ["id"]
        files         = { path = "topics/orders/", changes = "orders\\+[0-9]+\\+(?P<stamp>[0-9]+)" }
        order         = { by = "number", columns = ["__source_file", "__source_pos"] }
        op            = { column = "__op", insert = ["c", "r"], update = ["u"], delete = ["d"] }
        delete_marker = { column = "__deleted", values = ["true"] }
        before_image  = {}
      }
      "shop/readings" = { files = { path = "topics/", changes = ".*" } }
    }
  }

  assert {
    condition = jsondecode(output.config_json).tables["shop/orders"] == {
      target        = "orders"
      mode          = "merge"
      primary_key   = ["id"]
      files         = { path = "topics/orders/", full_load = "LOAD[0-9A-Fa-f]{8,}", changes = "orders\\+[0-9]+\\+(?P<stamp>[0-9]+)" }
      order         = { by = "number", column = null, columns = ["__source_file", "__source_pos"] }
      op            = { column = "__op", insert = ["c", "r"], update = ["u"], delete = ["d"] }
      delete_marker = { column = "__deleted", values = ["true"], keep = false }
      before_image  = { prefix = "BI_", suffix = "" }
      deletes       = "hard"
      schema_drift  = "add"
      missing_table = "create"
      reload        = "hold"
    }
    error_message = "What a table says about its source is passed on, with its defaults."
  }

  assert {
    condition     = jsondecode(output.config_json).tables["shop/readings"].files.path == "topics/"
    error_message = "A path may hold another's; the longest wins. An append table needs no order in its names."
  }
}

run "interval_apart_from_a_cron_schedule" {
  variables {
    cleanup = { sweep_schedule = "cron(*/10 6-22 * * ? *)", sweep_interval_seconds = 600 }
  }

  assert {
    condition     = jsondecode(output.config_json).cleanup.sweep_interval_seconds == 600
    error_message = "The interval can be set when the schedule does not tell it."
  }
}

run "a_thousand_tables" {
  variables {
    tables = { for number in range(1000) : "fair/table_${number}" => { primary_key = ["id"] } }
  }

  assert {
    condition     = length(jsondecode(output.config_json).tables) == 1000
    error_message = "A source with a thousand tables fits."
  }
}

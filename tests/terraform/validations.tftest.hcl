# Every input that would go wrong later is refused at plan, with a message that says what is wanted.
# A run costs two seconds, so each holds one fault of several variables, and all of them must be found.
# Validations of one variable that read another are only tried when that one is valid: `cleanup` reads `tables`, which reads
# `unlisted_tables`.

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

run "faults_01" {
  command = plan

  variables {
    # name with capitals
    name = "Fair_Dev"

    # bucket as arn
    source_bucket = { name = "arn:aws:s3:::fair-source" }

    # firebolt without way in
    firebolt = { database = "firebolt" }

    # no tables
    tables = {}

    # too little memory
    loader = { memory_mb = 128 }

    # live version latest
    live_version = 0


    # network without group
    network = { subnet_ids = ["subnet-1"], security_group_ids = [] }

    # encryption by alias
    encryption = { kms_key_arn = "alias/cdc" }

    # actions not arns
    alarms = { actions = ["on-call"] }

    # retention that logs lack
    logs = { retention_days = 31 }

    # both packages
    package_path = "x.zip"

    # role path without slash
    security = { role_path = "cdc" }
  }

  expect_failures = [
    var.name,
    var.source_bucket,
    var.firebolt,
    var.tables,
    var.loader,
    var.live_version,
    var.network,
    var.encryption,
    var.alarms,
    var.logs,
    var.package_s3,
    var.security,
  ]
}

run "faults_02" {
  command = plan

  variables {
    # name too long
    name = "a-name-of-more-than-thirty-two-characters"

    # prefix without slash
    source_bucket = { name = "fair-source", prefix = "firebolt_dms_job" }

    # firebolt with both ways in
    firebolt = { database = "firebolt", core_url = "http://core:3473", account_name = "a" }

    # table key without schema
    tables = { sessions = { primary_key = ["sid"] } }

    # too long a timeout
    loader = { timeout_seconds = 901 }
  }

  expect_failures = [
    var.name,
    var.source_bucket,
    var.firebolt,
    var.tables,
    var.loader,
  ]
}

run "faults_03" {
  command = plan

  variables {
    # prefix with leading slash
    source_bucket = { name = "fair-source", prefix = "/firebolt_dms_job/" }

    # firebolt account without secret
    firebolt = { database = "firebolt", account_name = "a", engine_name = "e" }

    # table key with prefix
    tables = { "firebolt_dms_job/fair/sessions" = {} }

    # runtime not python
    loader = { runtime = "nodejs20.x" }
  }

  expect_failures = [
    var.source_bucket,
    var.firebolt,
    var.tables,
    var.loader,
  ]
}

run "faults_04" {
  command = plan

  variables {
    # prefix with wildcard
    source_bucket = { name = "fair-source", prefix = "firebolt*/" }

    # firebolt secret instead of arn
    firebolt = { database = "firebolt", account_name = "a", engine_name = "e", secret_arn = "s3cr3t" }

    # two tables with one target
    tables = { "fair/sessions" = {}, "fair2/sessions" = {} }

    # unknown architecture
    loader = { architecture = "amd64" }
  }

  expect_failures = [
    var.source_bucket,
    var.firebolt,
    var.tables,
    var.loader,
  ]
}

run "faults_05" {
  command = plan

  variables {
    # prefix with backslash
    source_bucket = { name = "fair-source", prefix = "a\\b/" }

    # firebolt core url without scheme
    firebolt = { database = "firebolt", core_url = "core.internal:3473" }

    # target of the ledger
    tables = { "fair/sessions" = { target = "cdc_applied" } }

    # own variable overridden
    loader = { environment = { CDC_CONFIG_KEY = "x" } }
  }

  expect_failures = [
    var.source_bucket,
    var.firebolt,
    var.tables,
    var.loader,
  ]
}

run "faults_06" {
  command = plan

  variables {
    # suffix with policy variable
    source_bucket = { name = "fair-source", suffix = "$x.parquet" }

    # firebolt api endpoint as url
    firebolt = { database = "firebolt", core_url = "http://core:3473", api_endpoint = "https://api.app.firebolt.io" }

    # target of the ledger by default
    tables = { "fair/cdc_tables" = {} }

    # large batch without window
    loader = { batch_size = 11, batch_window_seconds = 0 }
  }

  expect_failures = [
    var.source_bucket,
    var.firebolt,
    var.tables,
    var.loader,
  ]
}

run "faults_07" {
  command = plan

  variables {
    # source key as alias
    source_bucket = { name = "fair-source", kms_key_arns = ["arn:aws:kms:eu-west-1:123456789012:alias/s3"] }

    # firebolt role by name
    firebolt = {
      database     = "firebolt"
      account_name = "a"
      engine_name  = "e"
      secret_arn   = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:s-AbCdEf"
      s3_role_arn  = "firebolt"
    }

    # empty target
    tables = { "fair/sessions" = { target = "" } }

    # batch above the limit
    loader = { batch_size = 10001 }
  }

  expect_failures = [
    var.source_bucket,
    var.firebolt,
    var.tables,
    var.loader,
  ]
}

run "faults_08" {
  command = plan

  variables {
    # start after without time
    source_bucket = { name = "fair-source", start_after = "2024-11-24" }

    # a role that a Core cannot take on
    firebolt = { database = "firebolt", core_url = "http://core:3473", s3_role_arn = "arn:aws:iam::123456789012:role/firebolt" }

    # unknown mode
    tables = { "fair/sessions" = { mode = "upsert" } }

    # window above the limit
    loader = { batch_window_seconds = 301 }
  }

  expect_failures = [
    var.source_bucket,
    var.tables,
    var.loader,
    var.firebolt,
  ]
}

run "faults_09" {
  command = plan

  variables {
    # merge without key
    tables = { "fair/sessions" = { mode = "merge" } }

    # concurrency below the limit
    loader = { max_concurrency = 1 }
  }

  expect_failures = [
    var.tables,
    var.loader,
  ]
}

run "faults_10" {
  command = plan

  variables {
    # key column twice
    tables = { "fair/sessions" = { primary_key = ["sid", "sid"] } }

    # half an attempt
    loader = { max_attempts = 2.5 }
  }

  expect_failures = [
    var.tables,
    var.loader,
  ]
}

run "faults_11" {
  command = plan

  variables {
    # unknown order
    tables = { "fair/sessions" = { order = { by = "updated_at" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "faults_12" {
  command = plan

  variables {
    # order without column
    tables = { "fair/sessions" = { primary_key = ["sid"], order = { by = "change_seq" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "faults_13" {
  command = plan

  variables {
    # file order with column
    tables = { "fair/sessions" = { primary_key = ["sid"], order = { column = "updated" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "faults_14" {
  command = plan

  variables {
    # unknown deletes
    tables = { "fair/sessions" = { deletes = "keep" } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "faults_15" {
  command = plan

  variables {
    # unknown drift
    tables = { "fair/sessions" = { schema_drift = "evolve" } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "faults_16" {
  command = plan

  variables {
    # unknown missing table
    tables = { "fair/sessions" = { missing_table = "skip" } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "faults_17" {
  command = plan

  variables {
    # unknown unlisted
    unlisted_tables = "ignore"

    # module bucket is source
    module_bucket = { name = "fair-source" }
  }

  expect_failures = [
    var.unlisted_tables,
    var.module_bucket,
  ]
}

run "firebolt_without_a_way_to_s3" {
  command = plan

  variables {
    firebolt = { database = "firebolt", account_name = "a", engine_name = "e", secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:s-AbCdEf" }

    # grace in half seconds
    cleanup = { reconcile_grace_seconds = 0.5 }
  }

  expect_failures = [
    var.firebolt,
    var.cleanup,
  ]
}

run "one_location_of_two" {
  command = plan

  variables {
    firebolt = { database = "firebolt", core_url = "http://core:3473", source_location = "cdc_source" }

    # quiet time in half seconds
    cleanup = { reload_quiet_seconds = 0.5 }
  }

  expect_failures = [
    var.firebolt,
    var.cleanup,
  ]
}

run "faults_18" {
  command = plan

  variables {
    # unknown reload
    tables = { "fair/sessions" = { primary_key = ["sid"], reload = "automatic" } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "faults_19" {
  command = plan

  variables {
    # target named like a reload's
    tables = { "fair/sessions" = { target = "sessions__CDC_reload_1" } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "faults_20" {
  command = plan

  variables {
    # secret without its suffix
    firebolt = {
      database     = "firebolt"
      account_name = "a"
      engine_name  = "e"
      secret_arn   = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:fair-dev/firebolt"
      s3_role_arn  = "arn:aws:iam::123456789012:role/firebolt"
    }

    # a runtime on Amazon Linux 2
    loader = { runtime = "python3.11" }

    # too little memory to migrate
    migrations = { memory_mb = 256 }

    # schedule in words
    cleanup = { sweep_schedule = "every 5 minutes" }
  }

  expect_failures = [
    var.firebolt,
    var.loader,
    var.migrations,
    var.cleanup,
  ]
}

run "faults_21" {
  command = plan

  variables {
    # secret's key by alias
    firebolt = {
      database           = "firebolt"
      account_name       = "a"
      engine_name        = "e"
      secret_arn         = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:fair-dev/firebolt-AbCdEf"
      secret_kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:alias/secrets"
      s3_role_arn        = "arn:aws:iam::123456789012:role/firebolt"
    }

    # too much memory to migrate
    migrations = { memory_mb = 20480 }

    # rate of one minutes
    cleanup = { sweep_schedule = "rate(1 minutes)" }
  }

  expect_failures = [
    var.firebolt,
    var.migrations,
    var.cleanup,
  ]
}

run "faults_22" {
  command = plan

  variables {
    # former secret without the six characters
    firebolt = {
      database           = "firebolt"
      core_url           = "http://core.internal:3473"
      former_secret_arns = ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:fair-dev/firebolt"]
    }

    # former key by alias
    encryption = {
      kms_key_arn         = "arn:aws:kms:eu-west-1:123456789012:key/module"
      former_kms_key_arns = ["arn:aws:kms:eu-west-1:123456789012:alias/module"]
    }

    # alarms would look into another namespace
    loader = { environment = { POWERTOOLS_METRICS_NAMESPACE = "Ours" } }

    # no retention
    cleanup = { retention_days = 0 }
  }

  expect_failures = [
    var.firebolt,
    var.encryption,
    var.loader,
    var.cleanup,
  ]
}

run "faults_23" {
  command = plan

  variables {
    # former secret's key by alias
    firebolt = {
      database                   = "firebolt"
      core_url                   = "http://core.internal:3473"
      former_secret_kms_key_arns = ["arn:aws:kms:eu-west-1:123456789012:alias/secrets"]
    }

    # no metrics, no alarms
    loader = { environment = { POWERTOOLS_METRICS_DISABLED = "true" } }

    # negative quiet time
    cleanup = { reload_quiet_seconds = -1 }
  }

  expect_failures = [
    var.firebolt,
    var.loader,
    var.cleanup,
  ]
}

run "faults_24" {
  command = plan

  variables {
    # secret of another region
    firebolt = {
      database     = "firebolt"
      account_name = "a"
      engine_name  = "e"
      secret_arn   = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:fair-dev/firebolt-AbCdEf"
      s3_role_arn  = "arn:aws:iam::123456789012:role/firebolt"
    }

    # key of another region
    encryption = { kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/module" }

    # half a message
    cleanup = { queue_limit = 1.5 }
  }

  expect_failures = [
    var.firebolt,
    var.encryption,
    var.cleanup,
  ]
}

run "faults_25" {
  command = plan

  variables {
    # secret's key of another region
    firebolt = {
      database           = "firebolt"
      account_name       = "a"
      engine_name        = "e"
      secret_arn         = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:fair-dev/firebolt-AbCdEf"
      secret_kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/secret"
      s3_role_arn        = "arn:aws:iam::123456789012:role/firebolt"
    }

    # former key of another region
    encryption = {
      kms_key_arn         = "arn:aws:kms:eu-west-1:123456789012:key/module"
      former_kms_key_arns = ["arn:aws:kms:eu-central-1:123456789012:key/former"]
    }

    # interval in half seconds
    cleanup = { sweep_interval_seconds = 90.5 }
  }

  expect_failures = [
    var.firebolt,
    var.encryption,
    var.cleanup,
  ]
}

run "faults_26" {
  command = plan

  variables {
    # reloads that nobody would carry out
    tables  = { "fair/sessions" = { primary_key = ["sid"], reload = "auto" } }
    cleanup = { reload_schedule = "off" }
  }

  expect_failures = [
    var.cleanup,
  ]
}

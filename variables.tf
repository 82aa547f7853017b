variable "name" {
  description = "Name of this pipeline: prefix of every resource, and value of the CloudWatch dimension `service`. One account may hold many pipelines with different names. What owns the target tables and the ledger rows in Firebolt is not the name but bucket and prefix of `source_bucket`: never run two pipelines over the same ones into one database."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 32 characters: lower-case letters, digits and hyphens, starting with a letter and not ending with a hyphen."
  }
}

variable "source_bucket" {
  description = <<-EOT
    The S3 bucket that DMS writes to.

    - `name`: the bucket's name. It lies in the region of this module, and in its account; of a bucket in another account, the events must be forwarded to the default event bus of this one, and its policy must let the roles of the three functions read it.
    - `prefix`: the part of every key before `schema/table/`, empty or ending in `/`. The DMS endpoint calls it the bucket folder.
    - `suffix`: the end of every key to load.
    - `kms_key_arns`: the customer keys that objects under the prefix are encrypted with. Empty for SSE-S3.
    - `start_after`: an RFC 3339 time. Objects last modified before it are never loaded by reconciliation. Null means that every object under the prefix is wanted.
    - `manage_eventbridge_notification`: let this module switch EventBridge on at the bucket. This **replaces every other notification of the bucket**, so leave it `false` unless nobody else sets any, and switch EventBridge on where the bucket is defined.
  EOT
  type = object({
    name                            = string
    prefix                          = optional(string, "")
    suffix                          = optional(string, ".parquet")
    kms_key_arns                    = optional(list(string), [])
    start_after                     = optional(string)
    manage_eventbridge_notification = optional(bool, false)
  })
  nullable = false

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.source_bucket.name))
    error_message = "source_bucket.name must be the name of an S3 bucket (3 to 63 lower-case letters, digits, dots and hyphens), not an ARN or a URL."
  }

  validation {
    condition     = var.source_bucket.prefix == "" || can(regex("^[^/].*/$", var.source_bucket.prefix))
    error_message = "source_bucket.prefix must be empty, or end in \"/\" and not start with one, as in \"firebolt_dms_job/\"."
  }

  # `*` and `?` are wildcards in IAM, `*` and `\` in EventBridge, `$` opens an IAM policy variable.
  # Refusing them keeps the rule and the policies about the same keys.
  validation {
    condition     = length(regexall("[*?$\\\\]", "${var.source_bucket.prefix}${var.source_bucket.suffix}")) == 0
    error_message = "source_bucket.prefix and source_bucket.suffix must not contain \"*\", \"?\", \"$\" or \"\\\", which IAM and EventBridge read as wildcards."
  }

  validation {
    condition     = alltrue([for arn in var.source_bucket.kms_key_arns : can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", arn))])
    error_message = "source_bucket.kms_key_arns must hold ARNs of KMS keys, arn:aws:kms:REGION:ACCOUNT:key/ID. Aliases cannot be used in IAM policies."
  }

  validation {
    condition     = var.source_bucket.start_after == null || can(timeadd(coalesce(var.source_bucket.start_after, "none"), "0s"))
    error_message = "source_bucket.start_after must be an RFC 3339 time such as \"2024-11-24T00:00:00Z\"."
  }
}

variable "firebolt" {
  description = <<-EOT
    The Firebolt database to load, reached in one of two ways.

    As a service account: `account_name`, `engine_name` and `secret_arn`, the ARN of a Secrets Manager secret whose value is `{"client_id": "…", "client_secret": "…"}`. Only the ARN passes through Terraform.
    - `api_endpoint`: the host of Firebolt's API. Another one than the default only where Firebolt has told you so.
    - `secret_kms_key_arn`: the customer key of that secret, if it has one.
    - `former_secret_arns`, `former_secret_kms_key_arns`: secrets that were named here before, and their keys. The functions may still read them, because they run with them until the migrations of the change have succeeded, and when `live_version` brings such a version back.
    - `s3_role_arn`, `s3_role_external_id`: the role with which Firebolt reads the source and staging objects. The migrate function creates Firebolt LOCATION objects with it.
    - `source_location`, `staging_location`: names of LOCATION objects that exist already, instead.

    As a self-hosted Firebolt Core: `core_url`. It reads S3 with credentials of its own.
  EOT
  type = object({
    database                   = string
    account_name               = optional(string)
    engine_name                = optional(string)
    api_endpoint               = optional(string, "api.app.firebolt.io")
    secret_arn                 = optional(string)
    secret_kms_key_arn         = optional(string)
    former_secret_arns         = optional(list(string), [])
    former_secret_kms_key_arns = optional(list(string), [])
    core_url                   = optional(string)
    source_location            = optional(string)
    staging_location           = optional(string)
    s3_role_arn                = optional(string)
    s3_role_external_id        = optional(string)
  })
  nullable = false

  validation {
    condition = var.firebolt.core_url != null ? (
      var.firebolt.account_name == null && var.firebolt.engine_name == null && var.firebolt.secret_arn == null
      ) : (
      var.firebolt.account_name != null && var.firebolt.engine_name != null && var.firebolt.secret_arn != null
    )
    error_message = "firebolt must hold either core_url, or all of account_name, engine_name and secret_arn."
  }

  validation {
    condition     = (var.firebolt.source_location == null) == (var.firebolt.staging_location == null)
    error_message = "firebolt.source_location and firebolt.staging_location are named together, or not at all."
  }

  validation {
    condition     = var.firebolt.core_url != null || var.firebolt.source_location != null || var.firebolt.s3_role_arn != null
    error_message = "firebolt needs s3_role_arn (the migrate function creates the LOCATION objects with it), or source_location and staging_location."
  }

  validation {
    condition     = var.firebolt.core_url == null || var.firebolt.s3_role_arn == null
    error_message = "firebolt.core_url and firebolt.s3_role_arn exclude each other: a Core reads S3 with credentials of its own, and takes on no role."
  }

  validation {
    condition     = var.firebolt.core_url == null || can(regex("^https?://[^/\\s]+", var.firebolt.core_url))
    error_message = "firebolt.core_url must start with http:// or https://, as in \"http://core.internal:3473\"."
  }

  validation {
    condition     = var.firebolt.secret_arn == null || can(regex("^arn:[^:]+:secretsmanager:[^:]+:[0-9]{12}:secret:.+-[A-Za-z0-9]{6}$", var.firebolt.secret_arn))
    error_message = "firebolt.secret_arn must be the whole ARN of a Secrets Manager secret, with the hyphen and six characters at its end that Secrets Manager gave it: IAM does not match it without. Never put the client secret itself here."
  }

  validation {
    condition     = var.firebolt.secret_kms_key_arn == null || can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.firebolt.secret_kms_key_arn))
    error_message = "firebolt.secret_kms_key_arn must be the ARN of a KMS key, arn:aws:kms:REGION:ACCOUNT:key/ID. Aliases cannot be used in IAM policies."
  }

  validation {
    condition     = alltrue([for arn in var.firebolt.former_secret_arns : can(regex("^arn:[^:]+:secretsmanager:[^:]+:[0-9]{12}:secret:.+-[A-Za-z0-9]{6}$", arn))])
    error_message = "firebolt.former_secret_arns must hold whole ARNs of Secrets Manager secrets, with the hyphen and six characters at their end."
  }

  validation {
    condition     = alltrue([for arn in var.firebolt.former_secret_kms_key_arns : can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", arn))])
    error_message = "firebolt.former_secret_kms_key_arns must hold ARNs of KMS keys, arn:aws:kms:REGION:ACCOUNT:key/ID. Aliases cannot be used in IAM policies."
  }

  # The functions ask Secrets Manager and KMS of their own region.
  validation {
    condition = alltrue([
      for arn in concat([var.firebolt.secret_arn, var.firebolt.secret_kms_key_arn], var.firebolt.former_secret_arns, var.firebolt.former_secret_kms_key_arns) :
      arn == null ? true : try(split(":", arn)[3] == local.region, true)
    ])
    error_message = "The secrets and keys of firebolt must lie in the region of this module, ${local.region}. Replicate the secret there, or configure the provider for its region."
  }

  validation {
    condition     = var.firebolt.s3_role_arn == null || can(regex("^arn:[^:]+:iam::[0-9]{12}:role/.+$", var.firebolt.s3_role_arn))
    error_message = "firebolt.s3_role_arn must be the ARN of an IAM role."
  }

  validation {
    condition     = can(regex("^[^/:]+(:[0-9]+)?$", var.firebolt.api_endpoint))
    error_message = "firebolt.api_endpoint must be a host name such as \"api.app.firebolt.io\", without https://."
  }

  validation {
    condition     = length(var.firebolt.database) > 0
    error_message = "firebolt.database must name the database that holds the tables."
  }
}

variable "tables" {
  description = <<-EOT
    The tables to load, by `schema/table` as they stand in the S3 keys.

    - `target`: name of the Firebolt table. Default: the part after the slash.
    - `primary_key`: the columns that identify a row.
    - `mode`: `merge` (needs a primary key) or `append` (keeps every change). Default: `merge` with a primary key, otherwise `append`.
    - `order`: what orders the changes of one key. `by = "file"` is the stamp in the file's name and the position in it; `change_seq`, `timestamp` and `number` read the column named in `column`, or several `columns` that compare one after another.
    - `deletes`: `hard`, `soft` (flags the row) or `ignore`.
    - `schema_drift`: what to do with a column that the target lacks: `add`, `fail` or `ignore`.
    - `missing_table`: `create` or `fail`.
    - `reload`: what a full load does that DMS writes anew: `hold` (it waits, alarmed, for `firebolt-cdc reload`) or
      `auto` (the cleanup function carries it out once nothing more of it comes, see `cleanup.reload_quiet_seconds`;
      only where the DMS task that writes the changes writes it too: changes before it are left out).

    For sources that are not DMS (docs/sources.md has examples):
    - `files`: `path` is where the files lie below `source_bucket.prefix`, empty or ending in `/` (default `schema/table/`; the longest path that fits wins). `full_load` and `changes` are regular expressions for the whole file name without suffix; the text of the group `(?P<stamp>…)` in `changes` orders the files.
    - `op`: the column that says what a row does, and the values that mean an insert, update or delete. A value in no list fails the file.
    - `delete_marker`: a column of which some values mean that the row is deleted. It is not loaded unless `keep = true`.
    - `before_image`: prefix and suffix of the columns with former values, as DMS's rule add-before-image-columns adds them. A row whose key changed is then moved.
  EOT
  type = map(object({
    target      = optional(string)
    mode        = optional(string)
    primary_key = optional(list(string), [])
    files = optional(object({
      path      = optional(string)
      full_load = optional(string, "LOAD[0-9A-Fa-f]{8,}")
      changes   = optional(string, "(?P<stamp>[0-9]{8}-[0-9]{1,20})")
    }), {})
    order = optional(object({
      by      = optional(string, "file")
      column  = optional(string)
      columns = optional(list(string), [])
    }), {})
    op = optional(object({
      column = optional(string, "Op")
      insert = optional(list(string), ["I"])
      update = optional(list(string), ["U"])
      delete = optional(list(string), ["D"])
    }), {})
    delete_marker = optional(object({
      column = string
      values = list(string)
      keep   = optional(bool, false)
    }))
    before_image = optional(object({
      prefix = optional(string, "BI_")
      suffix = optional(string, "")
    }))
    deletes       = optional(string, "hard")
    schema_drift  = optional(string, "add")
    missing_table = optional(string, "create")
    reload        = optional(string, "hold")
  }))
  default  = {}
  nullable = false

  validation {
    condition     = length(var.tables) > 0 || var.unlisted_tables == "append"
    error_message = "tables must list at least one table, unless unlisted_tables is \"append\"."
  }

  validation {
    condition     = alltrue([for key in keys(var.tables) : can(regex("^[^/]+/[^/]+$", key))])
    error_message = "Each key of tables must be \"schema/table\" as in the S3 key, without prefix or date folders. Not so: ${join(", ", [for key in keys(var.tables) : key if !can(regex("^[^/]+/[^/]+$", key))])}."
  }

  validation {
    condition = length(var.tables) == length(distinct([
      for key, table in var.tables : table.target == null ? element(split("/", key), 1) : table.target
    ]))
    error_message = "Two entries of tables have the same target table. Give each its own target."
  }

  # As is_own in handler/firebolt_cdc/config.py.
  validation {
    condition = alltrue([
      for key, table in var.tables :
      table.target != "" && !can(regex("^cdc_|__cdc_reload_", lower(table.target == null ? try(split("/", key)[1], "") : table.target)))
    ])
    error_message = "A target must not be empty, begin with \"cdc_\" or hold \"__cdc_reload_\": such names are kept for the ledger and for reloads. Give these a target of another name, as in { target = \"orders\" }: ${join(", ", [for key, table in var.tables : key if table.target == "" || can(regex("^cdc_|__cdc_reload_", lower(table.target == null ? try(split("/", key)[1], "") : table.target)))])}."
  }

  validation {
    condition     = alltrue([for table in values(var.tables) : table.mode == null ? true : contains(["merge", "append"], table.mode)])
    error_message = "mode must be \"merge\" or \"append\"."
  }

  validation {
    condition     = alltrue([for table in values(var.tables) : table.mode != "merge" || length(table.primary_key) > 0])
    error_message = "mode \"merge\" needs a primary_key. Without one: ${join(", ", [for key, table in var.tables : key if table.mode == "merge" && length(table.primary_key) == 0])}."
  }

  validation {
    condition = alltrue([
      for table in values(var.tables) :
      length(distinct(table.primary_key)) == length(table.primary_key) && !contains(table.primary_key, "")
    ])
    error_message = "primary_key must list each column once, and no empty name."
  }

  validation {
    condition     = alltrue([for table in values(var.tables) : contains(["file", "change_seq", "timestamp", "number"], table.order.by)])
    error_message = "order.by must be \"file\", \"change_seq\", \"timestamp\" or \"number\"."
  }

  validation {
    condition = alltrue([
      for table in values(var.tables) :
      table.order.by == "file" ? table.order.column == null && length(table.order.columns) == 0 : (table.order.column == null) != (length(table.order.columns) == 0)
    ])
    error_message = "order.column, or order.columns, names what to order by: one of them is required with order.by \"change_seq\", \"timestamp\" or \"number\", and neither is allowed with \"file\"."
  }

  validation {
    condition = alltrue([
      for table in values(var.tables) :
      table.order.column != "" && length(distinct(table.order.columns)) == length(table.order.columns) && !contains(table.order.columns, "")
    ])
    error_message = "order.columns must list each column once, and no empty name."
  }

  validation {
    condition     = alltrue([for table in values(var.tables) : table.files.path == null ? true : can(regex("^([^/].*/)?$", table.files.path))])
    error_message = "files.path must be empty (the source prefix itself), or end in \"/\" and not start with one, as in \"topics/orders/\". Not so: ${join(", ", [for key, table in var.tables : key if table.files.path == null ? false : !can(regex("^([^/].*/)?$", table.files.path))])}."
  }

  validation {
    condition     = length(var.tables) == length(distinct([for key, table in var.tables : table.files.path == null ? "${key}/" : table.files.path]))
    error_message = "Two entries of tables have their files below the same path, so nobody could say whose a file is. Give each its own files.path (default: \"schema/table/\")."
  }

  # What Terraform (RE2) and the handler (Python) both read, and read alike. Groups without a name cannot stand beside
  # one with a name in Terraform.
  validation {
    condition = alltrue(flatten([
      for table in values(var.tables) : [
        for pattern in [table.files.full_load, table.files.changes] :
        can(regexall(pattern, "")) && length(regexall("\\(\\?[^:P]|\\\\[pPzQECx]|\\[\\[:|\\{,", pattern)) == 0
      ]
    ]))
    error_message = "files.full_load and files.changes must be regular expressions that both RE2 and Python read: no lookaround, flags, back references, \\p, \\x, \\z, \\Q or [[:class:]]; write (?:…) for a group that is not (?P<stamp>…). Not so: ${join(", ", [for key, table in var.tables : key if !alltrue([for pattern in [table.files.full_load, table.files.changes] : can(regexall(pattern, "")) && length(regexall("\\(\\?[^:P]|\\\\[pPzQECx]|\\[\\[:|\\{,", pattern)) == 0])])}."
  }

  validation {
    condition = alltrue([
      for table in values(var.tables) :
      (table.mode == null ? length(table.primary_key) == 0 : table.mode != "merge") || table.order.by != "file" || strcontains(table.files.changes, "(?P<stamp>")
    ])
    error_message = "A table that is merged needs an order of its changes: a group (?P<stamp>…) in files.changes, or order columns. Without: ${join(", ", [for key, table in var.tables : key if table.order.by == "file" && !strcontains(table.files.changes, "(?P<stamp>")])}."
  }

  validation {
    condition     = alltrue([for table in values(var.tables) : contains(["hard", "soft", "ignore"], table.deletes)])
    error_message = "deletes must be \"hard\", \"soft\" or \"ignore\"."
  }

  validation {
    condition     = alltrue([for table in values(var.tables) : contains(["add", "fail", "ignore"], table.schema_drift)])
    error_message = "schema_drift must be \"add\", \"fail\" or \"ignore\"."
  }

  validation {
    condition     = alltrue([for table in values(var.tables) : contains(["create", "fail"], table.missing_table)])
    error_message = "missing_table must be \"create\" or \"fail\"."
  }

  validation {
    condition     = alltrue([for table in values(var.tables) : contains(["hold", "auto"], table.reload)])
    error_message = "reload must be \"hold\" or \"auto\"."
  }

  validation {
    condition = alltrue([
      for table in values(var.tables) :
      table.op.column != "" && length(concat(table.op.insert, table.op.update, table.op.delete)) > 0
    ])
    error_message = "op.column must name the column that says what a row does, and op.insert, op.update and op.delete at least one value."
  }

  validation {
    condition = alltrue([
      for table in values(var.tables) :
      length(distinct(concat(table.op.insert, table.op.update, table.op.delete))) == length(concat(table.op.insert, table.op.update, table.op.delete))
    ])
    error_message = "A value can stand only once in op.insert, op.update and op.delete."
  }

  validation {
    condition = alltrue([
      for table in values(var.tables) :
      table.delete_marker == null ? true : table.delete_marker.column != "" && length(table.delete_marker.values) > 0
    ])
    error_message = "delete_marker needs a column, and in values at least one that means deleted, as in { column = \"__deleted\", values = [\"true\"] }."
  }

  validation {
    condition = alltrue([
      for table in values(var.tables) :
      table.before_image == null ? true : "${table.before_image.prefix}${table.before_image.suffix}" != ""
    ])
    error_message = "before_image needs a prefix or a suffix: the one in DMS's rule add-before-image-columns."
  }

  validation {
    condition = alltrue([
      for table in values(var.tables) :
      table.before_image == null || (table.mode == null ? length(table.primary_key) > 0 : table.mode == "merge")
    ])
    error_message = "before_image is for tables with mode \"merge\": an append table keeps every row as it is."
  }

  validation {
    condition = alltrue(flatten([
      for table in values(var.tables) : [
        for column in table.primary_key :
        column != table.op.column
        && (table.delete_marker == null ? true : table.delete_marker.keep || column != table.delete_marker.column)
        && (table.before_image == null ? true : !(
          length(column) > length("${table.before_image.prefix}${table.before_image.suffix}")
          && length("${table.before_image.prefix}${table.before_image.suffix}") > 0
          && startswith(column, table.before_image.prefix) && endswith(column, table.before_image.suffix)
        ))
      ]
    ]))
    error_message = "primary_key must not name the op column, the delete marker (unless it has keep = true) or a before-image column: they are not loaded."
  }
}

variable "unlisted_tables" {
  description = "What to do with files of tables that `tables` does not list: `fail` (they stand in the ledger as failed, and an alarm says so), `skip` (they stand in the ledger as skipped) or `append` (each is loaded into an append table of its own, named `schema__table`; one whose name could be another's as well fails, and is to be listed)."
  type        = string
  default     = "fail"
  nullable    = false

  validation {
    condition     = contains(["fail", "skip", "append"], var.unlisted_tables)
    error_message = "unlisted_tables must be \"fail\", \"skip\" or \"append\"."
  }
}

variable "deduplication_enabled" {
  description = "Whether a file that was applied before is refused. `false` makes loads at-least-once: merge tables stay right, append tables get a repeated file's rows again."
  type        = bool
  default     = true
  nullable    = false
}

variable "loader" {
  description = <<-EOT
    The loader function and the batches that it gets. `runtime`, `architecture`, `log_level` and `environment` hold for all three functions, which share one package.

    - `memory_mb`: less 320 MiB, a quarter of it is the room for the rows of change files, which are read whole (432 MiB of 2048); more memory is more CPU too.
    - `timeout_seconds`: how long one batch may take. A full load that takes longer by itself is failed with the command that loads it from elsewhere.
    - `ephemeral_storage_mb`: the size of /tmp. The functions write nothing there, so Lambda's smallest is enough.
    - `max_attempts`: how often one file is tried alone before it is failed for good.
    - `batch_size`, `batch_window_seconds`: a batch is handed over when either is reached. A larger window makes fewer, cheaper commits.
    - `max_concurrency`: the largest number of loaders at a time, at the event source and not as reserved concurrency, so that throttling uses up no attempts.
    - `log_level`: above INFO the log has no STEP lines, and `firebolt-cdc doctor`, which looks for them, can only say so.
    - `environment`: further environment variables, such as `AWS_ENDPOINT_URL`. Never secrets.
    - `paused`: stop taking messages. They wait in the queue, up to its retention.
  EOT
  type = object({
    memory_mb            = optional(number, 2048)
    timeout_seconds      = optional(number, 300)
    ephemeral_storage_mb = optional(number, 512)
    batch_size           = optional(number, 100)
    batch_window_seconds = optional(number, 20)
    max_concurrency      = optional(number, 10)
    max_attempts         = optional(number, 3)
    runtime              = optional(string, "python3.13")
    architecture         = optional(string, "arm64")
    log_level            = optional(string, "INFO")
    environment          = optional(map(string), {})
    paused               = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.loader.memory_mb >= 512 && var.loader.memory_mb <= 10240
    error_message = "loader.memory_mb must be between 512 (pyarrow needs that much) and 10240."
  }

  validation {
    condition     = var.loader.timeout_seconds >= 30 && var.loader.timeout_seconds <= 900
    error_message = "loader.timeout_seconds must be between 30 and 900."
  }

  validation {
    condition     = var.loader.ephemeral_storage_mb >= 512 && var.loader.ephemeral_storage_mb <= 10240
    error_message = "loader.ephemeral_storage_mb must be between 512 and 10240."
  }

  validation {
    condition     = var.loader.batch_size >= 1 && var.loader.batch_size <= 1000 && floor(var.loader.batch_size) == var.loader.batch_size
    error_message = "loader.batch_size must be a whole number between 1 and 1000."
  }

  validation {
    condition     = var.loader.batch_window_seconds >= 0 && var.loader.batch_window_seconds <= 300
    error_message = "loader.batch_window_seconds must be between 0 and 300."
  }

  validation {
    condition     = var.loader.batch_size <= 10 || var.loader.batch_window_seconds >= 1
    error_message = "loader.batch_size above 10 needs loader.batch_window_seconds of at least 1: Lambda accepts no such batch without a window."
  }

  validation {
    condition     = var.loader.max_concurrency >= 2 && var.loader.max_concurrency <= 1000
    error_message = "loader.max_concurrency must be between 2 and 1000."
  }

  validation {
    condition     = var.loader.max_attempts >= 1 && var.loader.max_attempts <= 20 && floor(var.loader.max_attempts) == var.loader.max_attempts
    error_message = "loader.max_attempts must be a whole number between 1 and 20."
  }

  validation {
    condition     = can(regex("^python3\\.(1[2-9]|[2-9][0-9])$", var.loader.runtime))
    error_message = "loader.runtime must be a Python runtime of Lambda, python3.12 or newer, the one that the package was built for: older ones run on an Amazon Linux whose C library is too old for the package."
  }

  validation {
    condition     = contains(["arm64", "x86_64"], var.loader.architecture)
    error_message = "loader.architecture must be \"arm64\" or \"x86_64\", the one that the package was built for."
  }

  validation {
    condition     = contains(["DEBUG", "INFO", "WARNING", "ERROR"], var.loader.log_level)
    error_message = "loader.log_level must be DEBUG, INFO, WARNING or ERROR."
  }

  # The alarms look for the metrics where the module has them written.
  validation {
    condition = alltrue([
      for key in keys(var.loader.environment) :
      !startswith(key, "CDC_") && !startswith(key, "POWERTOOLS_METRICS_") && key != "POWERTOOLS_SERVICE_NAME"
    ])
    error_message = "loader.environment must not set CDC_…, POWERTOOLS_METRICS_… or POWERTOOLS_SERVICE_NAME, which the module sets: without them the functions find no configuration, or their alarms no metrics."
  }
}

variable "live_version" {
  description = "Published version that the loader's alias PROD points to, to roll back: the older version runs with the configuration that it was published with. Null follows the newest."
  type        = number
  default     = null

  validation {
    condition     = var.live_version == null ? true : var.live_version >= 1 && floor(var.live_version) == var.live_version
    error_message = "live_version must be the number of a published version, 1 or more, or null for the newest."
  }
}

variable "queue" {
  description = <<-EOT
    The queue between the rule and the loader.

    - `retention_seconds`: how long a message may wait, for instance while the loader is paused.
    - `dead_letter_retention_seconds`: how long both dead letter queues keep a message. SQS counts from the first send, so it must be longer than `retention_seconds`.
    - `visibility_timeout_seconds`: when a message of a crashed loader comes back. Default: six times the loader's timeout plus the batch window.
    - `max_receive_count`: receives before SQS itself moves a message to the dead letter queue. The loader counts attempts in the ledger; only crashes use receives up.
  EOT
  type = object({
    retention_seconds             = optional(number, 345600)
    dead_letter_retention_seconds = optional(number, 1209600)
    visibility_timeout_seconds    = optional(number)
    max_receive_count             = optional(number, 10)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.queue.retention_seconds >= 3600 && var.queue.retention_seconds < var.queue.dead_letter_retention_seconds && var.queue.dead_letter_retention_seconds <= 1209600
    error_message = "queue.retention_seconds must be at least 3600 and less than queue.dead_letter_retention_seconds, which must be at most 1209600 (14 days)."
  }

  validation {
    condition = var.queue.visibility_timeout_seconds == null ? true : (
      var.queue.visibility_timeout_seconds >= 6 * var.loader.timeout_seconds && var.queue.visibility_timeout_seconds <= 43200
    )
    error_message = "queue.visibility_timeout_seconds must be at least six times loader.timeout_seconds (${6 * var.loader.timeout_seconds}) and at most 43200."
  }

  validation {
    condition     = var.queue.max_receive_count >= 5 && var.queue.max_receive_count <= 1000
    error_message = "queue.max_receive_count must be between 5 and 1000."
  }
}

variable "cleanup" {
  description = <<-EOT
    The cleanup function and its schedules. A schedule is a `rate(…)` or `cron(…)` expression in UTC, or `off`. A task that fires at least daily (a `rate` of a day or less, or a `cron` whose days, months and years are all `*` or `?`) has an alarm `TASK-silent`: after three ticks of a `rate`, 15 minutes at least and a day at most; after two days of a `cron`, however often it fires, and of a daily `rate`. Of rarer ones nobody is told when they stay away, for CloudWatch looks back no further.

    - `sweep_schedule`: frees expired turns and sends pending and retryable files to the queue again.
    - `reconcile_schedule`: compares S3 with the ledger and sends what is missing.
    - `audit_schedule`: counts duplicate keys in the target tables.
    - `purge_schedule`: deletes what is older than `retention_days`.
    - `reload_schedule`: carries out reloads of tables with `reload = "auto"`; there is no such schedule without one, and it may not be `off` with one.
    - `sweep_interval_seconds`: how often one file is sent again at most. Default: the sweep's rate; 300 where its schedule is a `cron` or `off`.
    - `retention_days`: ledger rows of `completed` and `skipped` files, and lines about duplicate deliveries, that are older are purged; tombstones too, once no older file can come. What was applied stays known for good. The audit looks for file versions that were applied twice within it.
    - `queue_limit`: sweep and reconciliation send, at each run, at most this many messages less those on the queue. Rows that a person set to `pending`, and those that the sweep resets, are always sent.
    - `reconcile_grace_seconds`: objects younger than this are left to their event.
    - `reload_quiet_seconds`: a new full load is complete when its newest file is as old as this (`reload = "auto"`).
    - `memory_mb`, `timeout_seconds`: of the cleanup function. A reload reads files as the loader does; what one run has no time for is done by the next.
  EOT
  type = object({
    sweep_schedule          = optional(string, "rate(5 minutes)")
    reconcile_schedule      = optional(string, "rate(1 hour)")
    audit_schedule          = optional(string, "cron(15 3 * * ? *)")
    purge_schedule          = optional(string, "cron(45 3 1 * ? *)")
    reload_schedule         = optional(string, "rate(15 minutes)")
    sweep_interval_seconds  = optional(number)
    retention_days          = optional(number, 30)
    queue_limit             = optional(number, 1000)
    reconcile_grace_seconds = optional(number, 900)
    reload_quiet_seconds    = optional(number, 900)
    memory_mb               = optional(number, 1024)
    timeout_seconds         = optional(number, 600)
  })
  default  = {}
  nullable = false

  validation {
    condition = alltrue([
      for schedule in [
        var.cleanup.sweep_schedule, var.cleanup.reconcile_schedule, var.cleanup.audit_schedule,
        var.cleanup.purge_schedule, var.cleanup.reload_schedule,
      ] :
      schedule == "off" || can(regex("^rate\\((1 (minute|hour|day)|([2-9]|[1-9][0-9]+) (minutes|hours|days))\\)$", schedule)) || can(regex("^cron\\(.+\\)$", schedule))
    ])
    error_message = "Each schedule of cleanup must be \"off\", a rate such as \"rate(1 hour)\" or \"rate(5 minutes)\", or a cron expression such as \"cron(15 3 * * ? *)\"."
  }

  validation {
    condition     = var.cleanup.reload_schedule != "off" || !local.reloads_by_itself
    error_message = "cleanup.reload_schedule must not be \"off\" while a table has reload = \"auto\": its new full loads would be held for ever. Set reload = \"hold\" to carry them out by hand."
  }

  validation {
    condition     = var.cleanup.sweep_interval_seconds == null ? true : var.cleanup.sweep_interval_seconds >= 60 && floor(var.cleanup.sweep_interval_seconds) == var.cleanup.sweep_interval_seconds
    error_message = "cleanup.sweep_interval_seconds must be a whole number of at least 60."
  }

  validation {
    condition     = var.cleanup.retention_days >= 1 && floor(var.cleanup.retention_days) == var.cleanup.retention_days
    error_message = "cleanup.retention_days must be a whole number of days, at least 1."
  }

  validation {
    condition     = var.cleanup.queue_limit >= 1 && floor(var.cleanup.queue_limit) == var.cleanup.queue_limit
    error_message = "cleanup.queue_limit must be a whole number of at least 1."
  }

  validation {
    condition = alltrue([
      for seconds in [var.cleanup.reconcile_grace_seconds, var.cleanup.reload_quiet_seconds] : seconds >= 0 && floor(seconds) == seconds
    ])
    error_message = "cleanup.reconcile_grace_seconds and cleanup.reload_quiet_seconds must be whole numbers of at least 0."
  }

  validation {
    condition     = var.cleanup.memory_mb >= 512 && var.cleanup.memory_mb <= 10240 && var.cleanup.timeout_seconds >= 60 && var.cleanup.timeout_seconds <= 900
    error_message = "cleanup.memory_mb must be between 512 and 10240, and cleanup.timeout_seconds between 60 and 900."
  }
}

variable "migrations" {
  description = <<-EOT
    The migrate function.

    - `run_on_apply`: whether `terraform apply` runs the SQL migrations (and seeds the table map) whenever the package, the migrations or the configuration change. With `false`, the apply moves PROD at once: set `live_version` with it (for a first apply, `loader.paused`) until your pipeline has invoked the migrate function, as `firebolt-cdc migrate --yes` does.
    - `memory_mb`: a ledger made by hand is adopted with the listing of the whole source in memory (docs/upgrade.md).
  EOT
  type = object({
    run_on_apply    = optional(bool, true)
    memory_mb       = optional(number, 1024)
    timeout_seconds = optional(number, 900)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.migrations.memory_mb >= 512 && var.migrations.memory_mb <= 10240 && var.migrations.timeout_seconds >= 60 && var.migrations.timeout_seconds <= 900
    error_message = "migrations.memory_mb must be between 512 and 10240, and migrations.timeout_seconds between 60 and 900."
  }
}

variable "alarms" {
  description = <<-EOT
    CloudWatch alarms and dashboard.

    - `actions`, `ok_actions`: ARNs (SNS topics, for instance) that are told when an alarm goes off or recovers.
    - `enabled`, `dashboard`: `false` creates none.
    - `oldest_message_seconds`: age of the oldest message in the queue.
    - `longest_wait_seconds`: how long a file may wait, for its table's turn, for the engine or for the ledger.
    - `duplicate_files_percent`: share of file versions that were applied more than once, within `cleanup.retention_days`.
    - `duration_percent`: how much of its timeout a loader may take.
  EOT
  type = object({
    enabled                 = optional(bool, true)
    dashboard               = optional(bool, true)
    actions                 = optional(list(string), [])
    ok_actions              = optional(list(string), [])
    oldest_message_seconds  = optional(number, 3600)
    longest_wait_seconds    = optional(number, 3600)
    duplicate_files_percent = optional(number, 0.1)
    duration_percent        = optional(number, 90)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for arn in concat(var.alarms.actions, var.alarms.ok_actions) : startswith(arn, "arn:")])
    error_message = "alarms.actions and alarms.ok_actions must hold ARNs, of SNS topics for instance."
  }

  validation {
    condition     = var.alarms.oldest_message_seconds > 0 && var.alarms.longest_wait_seconds > 0 && var.alarms.duplicate_files_percent > 0
    error_message = "alarms.oldest_message_seconds, longest_wait_seconds and duplicate_files_percent must be greater than 0."
  }

  validation {
    condition     = var.alarms.duration_percent > 0 && var.alarms.duration_percent <= 100
    error_message = "alarms.duration_percent must be between 1 and 100."
  }
}

variable "network" {
  description = "Subnets and security groups for the functions, when Firebolt Core or a private endpoint needs them. The subnets need a way to S3, SQS, Secrets Manager and CloudWatch Logs, and to Firebolt. Null runs outside any VPC."
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
  default = null

  validation {
    condition     = var.network == null ? true : length(var.network.subnet_ids) > 0 && length(var.network.security_group_ids) > 0
    error_message = "network needs at least one subnet_ids entry and one security_group_ids entry."
  }
}

variable "encryption" {
  description = <<-EOT
    A customer KMS key. Null uses the keys of SQS and S3, which are always on.

    - `kms_key_arn`: the key of the queues and the module's bucket. Its policy must hold the statements of the output `kms_key_policy_statements`.
    - `logs`: whether the log groups use it too.
    - `former_kms_key_arns`: keys that stood here before. The functions may still decrypt with them, which they need for messages on the queue, for staged files, and for the configuration of older versions (docs/upgrade.md).
  EOT
  type = object({
    kms_key_arn         = string
    logs                = optional(bool, false)
    former_kms_key_arns = optional(list(string), [])
  })
  default = null

  validation {
    condition     = var.encryption == null ? true : can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.encryption.kms_key_arn))
    error_message = "encryption.kms_key_arn must be the ARN of a KMS key, arn:aws:kms:REGION:ACCOUNT:key/ID. Aliases cannot be used in IAM policies."
  }

  validation {
    condition     = var.encryption == null ? true : alltrue([for arn in var.encryption.former_kms_key_arns : can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", arn))])
    error_message = "encryption.former_kms_key_arns must hold ARNs of KMS keys, arn:aws:kms:REGION:ACCOUNT:key/ID. Aliases cannot be used in IAM policies."
  }

  # SQS and S3 use keys of their own region only.
  validation {
    condition = var.encryption == null ? true : alltrue([
      for arn in concat([var.encryption.kms_key_arn], var.encryption.former_kms_key_arns) : try(split(":", arn)[3] == local.region, true)
    ])
    error_message = "The keys of encryption must lie in the region of this module, ${local.region}, as the queues and the bucket do. Of a multi-Region key, name the replica there."
  }
}

variable "security" {
  description = <<-EOT
    - `enforce_tls`: deny requests to the queues and the module's bucket that do not use TLS. Only an emulator without TLS needs `false`.
    - `permissions_boundary_arn`: boundary for the roles that the module creates.
    - `role_path`: IAM path of these roles. Another path makes new roles of the same names, so the old ones are destroyed first, and published versions keep the ARN of a role that is gone: PROD cannot run until the migrations of that apply have succeeded, and `live_version` cannot go back past it. Pause the loader in an apply before, and correct the policies of buckets and keys in other accounts, which name the roles.
  EOT
  type = object({
    enforce_tls              = optional(bool, true)
    permissions_boundary_arn = optional(string)
    role_path                = optional(string, "/")
  })
  default  = {}
  nullable = false

  validation {
    condition     = can(regex("^/([!-~]+/)?$", var.security.role_path))
    error_message = "security.role_path must begin and end with \"/\"."
  }
}

variable "logs" {
  description = "How many days the functions' log groups keep their lines."
  type = object({
    retention_days = optional(number, 30)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.logs.retention_days)
    error_message = "logs.retention_days must be one of the periods that CloudWatch Logs knows: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653."
  }
}

variable "module_bucket" {
  description = "The bucket that the module creates for its configuration, staged files and package. `name` defaults to NAME-ACCOUNT-REGION. `force_destroy` lets `terraform destroy` delete it with its contents."
  type = object({
    name          = optional(string)
    force_destroy = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.module_bucket.name == null ? true : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.module_bucket.name))
    error_message = "module_bucket.name must be a valid S3 bucket name: 3 to 63 lower-case letters, digits, dots and hyphens."
  }

  validation {
    condition     = var.module_bucket.name == null ? true : var.module_bucket.name != var.source_bucket.name
    error_message = "module_bucket.name must not be the source bucket: the module creates a bucket of its own."
  }
}

variable "package_path" {
  description = "The zip that `make package` builds. Null takes dist/firebolt-cdc.zip inside the module."
  type        = string
  default     = null
}

variable "package_s3" {
  description = "A package that stands in S3 already, in the same region, instead of `package_path`. `version_id` is wanted when the bucket is versioned and the key is used again for a new build."
  type = object({
    bucket     = string
    key        = string
    version_id = optional(string)
  })
  default = null

  validation {
    condition     = var.package_s3 == null || var.package_path == null
    error_message = "Set package_s3 or package_path, not both."
  }
}

variable "tags" {
  description = "Tags for the resources, besides the provider's default tags; not for the objects in S3, nor for the event source mapping, which AWS does not let be tagged in every region and partition."
  type        = map(string)
  default     = {}
  nullable    = false
}

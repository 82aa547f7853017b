# What a table can say about its source: each fault on its own, since each must be found by the validation meant for it.

mock_provider "aws" {
  source = "./tests/terraform/mocks"
}

variables {
  name          = "fair-dev"
  source_bucket = { name = "fair-source", prefix = "firebolt_dms_job/" }
  firebolt      = { database = "firebolt", core_url = "http://core.internal:3473" }
  package_s3    = { bucket = "releases", key = "firebolt-cdc.zip" }
}

run "empty_op_column" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { op = { column = "" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "an_operation_without_values" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { op = { insert = [], update = [], delete = [] } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "one_value_for_two_operations" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { op = { insert = ["I", "U"] } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "order_columns_twice_over" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { order = { by = "number", column = "a", columns = ["b"] } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "an_order_column_by_file" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { order = { columns = ["b"] } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "one_order_column_twice" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { order = { by = "number", columns = ["b", "b"] } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_path_without_an_end" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { files = { path = "topics/orders" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_path_from_the_root" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { files = { path = "/topics/orders/" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_path_that_another_table_has" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { files = { path = "fair/events/" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "no_regular_expression" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { files = { changes = "(?P<stamp>[0-9]+" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_group_without_a_name_beside_one_with" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { files = { changes = "(a|b)-(?P<stamp>[0-9]+)" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "an_expression_that_only_one_of_the_two_reads" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { files = { full_load = "\\pL+" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_flag_in_an_expression" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { files = { full_load = "(?i)load.*" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "merge_without_an_order" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { primary_key = ["sid"], files = { changes = "part-[0-9]+" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_delete_marker_without_values" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { delete_marker = { column = "gone", values = [] } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_before_image_without_a_name" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { primary_key = ["sid"], before_image = { prefix = "" } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_before_image_of_an_append_table" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { before_image = {} } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_key_that_is_a_before_image" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { primary_key = ["BI_sid"], before_image = {} } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_key_that_is_the_delete_marker" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { primary_key = ["gone"], delete_marker = { column = "gone", values = ["1"] } } }
  }

  expect_failures = [
    var.tables,
  ]
}

run "a_key_that_is_the_operation" {
  command = plan

  variables {
    tables = { "fair/events" = {}, "fair/sessions" = { primary_key = ["Op"] } }
  }

  expect_failures = [
    var.tables,
  ]
}

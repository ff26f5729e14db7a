{{/* The alerts, by name. `runbook` is the anchor in docs/runbook.md. */}}
{{- define "telemetry.alerts" -}}
{{- $t := .Values.monitoring.prometheusRule.thresholds -}}
{{- $namespace := printf "namespace=%q" .Release.Namespace -}}
TelemetryRedisUnreachable:
  expr: min by (namespace, cluster, component) (message_queue_connection_status{ {{- $namespace -}} }) == 0
  for: 2m
  severity: critical
  runbook: line-cut
  summary: "{{ `{{ $labels.component }} of {{ $labels.cluster }} does not reach Redis` }}"
  description: "{{ `For two minutes no command has been answered. Nothing is lost: streamers wait, and go on by themselves.` }}"
TelemetryQueueLag:
  expr: max by (namespace, group) (telemetry_group_lag_seconds{ {{- $namespace -}} }) > {{ $t.lagSeconds }}
  for: 5m
  severity: warning
  runbook: lag
  summary: "{{ `Group {{ $labels.group }} is {{ $value | humanizeDuration }} behind` }}"
  description: "{{ `Its oldest batch has waited that long for being stored: collectors are too few or too slow, PostgreSQL is, or nobody reads for the group any more.` }}"
TelemetryNothingStored:
  expr: sum by (namespace) (max by (namespace, partition) (telemetry_backlog_entries{ {{- $namespace -}} })) > 0 and sum by (namespace) (rate(telemetry_batches_total{direction="committed", {{ $namespace -}} }[5m])) == 0
  for: 5m
  severity: critical
  runbook: postgres-down
  summary: "{{ `Batches wait, and collectors store none` }}"
  description: "{{ `{{ $value }} entries wait in the queue. PostgreSQL is away, or refuses: /readyz of the collectors says why.` }}"
TelemetryNoData:
  # What was seen within a day: it is missed also when no collector is there to say so.
  expr: time() - max by (namespace, cluster) (last_over_time(telemetry_last_stored_timestamp_seconds{ {{- $namespace -}} }[1d])) > {{ mul (int $t.noDataMinutes) 60 }} < {{ mul (int $t.noDataDays) 86400 }}
  for: 5m
  severity: warning
  runbook: no-data
  summary: "{{ `No data from {{ $labels.cluster }} for {{ $value | humanizeDuration }}` }}"
  description: "{{ `Nothing of it was stored meanwhile. After ` }}{{ int $t.noDataDays }}{{ ` days it is taken for gone.` }}"
TelemetryLatency:
  expr: histogram_quantile(0.99, sum by (namespace, source_cluster, le) (rate(cross_cluster_latency_seconds_bucket{component="collector", {{ $namespace -}} }[10m]))) > {{ $t.latencySeconds }}
  for: 10m
  severity: warning
  runbook: latency
  summary: "{{ `From {{ $labels.source_cluster }} to the store it takes {{ $value | humanizeDuration }}` }}"
  description: "{{ `99th percentile of ten minutes. The clocks of both clusters are in it.` }}"
TelemetryDeadLetters:
  expr: max by (namespace) (telemetry_dead_letters_kept{ {{- $namespace -}} }) > 0
  for: 1m
  severity: warning
  runbook: dead-letters
  summary: "{{ `Batches that could not be stored: {{ $value }}` }}"
  description: "{{ `They are kept in PostgreSQL until somebody decides: telemetry dead-letters list.` }}"
TelemetryEntriesHeldBack:
  expr: max by (namespace) (telemetry_held_back_entries{ {{- $namespace -}} }) > 0
  for: 5m
  severity: warning
  runbook: held-back
  summary: "{{ `Entries are held back: {{ $value }}` }}"
  description: "{{ `Nothing is lost: they wait in the queue. Either their format is newer than the collectors, or a damaged chunk hides whether they are stored; the log of the collectors says which.` }}"
TelemetryFilesUnreadable:
  expr: max by (namespace, pod) (telemetry_source_files_unreadable{ {{- $namespace -}} }) > 0
  for: 10m
  severity: warning
  runbook: unreadable-files
  summary: "{{ `Streamer {{ $labels.pod }} cannot read files: {{ $value }}` }}"
  description: "{{ `They are tried again every few seconds. The log of the streamer names them and the reason: rights, open files, a volume.` }}"
TelemetryRejectedRows:
  expr: sum by (namespace) (rate(telemetry_rows_rejected_total{ {{- $namespace -}} }[15m])) / (sum by (namespace) (rate(telemetry_rows_read_total{ {{- $namespace -}} }[15m])) > 0) > {{ $t.rejectedRatio }}
  for: 15m
  severity: warning
  runbook: rejected-rows
  summary: "{{ `{{ $value | humanizePercentage }} of the rows are rejected` }}"
  description: "{{ `telemetry_rows_rejected_total says for which reason; the view rejected_rows in PostgreSQL has the rows.` }}"
TelemetryCertificateExpires:
  expr: min by (namespace, target) (telemetry_certificate_expiry_seconds{ {{- $namespace -}} }) < {{ mul (int $t.certificateDays) 86400 }}
  for: 15m
  severity: warning
  runbook: certificate
  summary: "{{ `The certificate of {{ $labels.target }} ends in {{ $value | humanizeDuration }}` }}"
  description: "{{ `Renewed files are read without a restart: whoever renews it has not.` }}"
{{- end }}

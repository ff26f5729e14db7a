{{/* Names. The name of a release is unique in its namespace, so objects are named after it; in a subchart, after the chart, too. */}}

{{- define "telemetry.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* At most 40 characters, so that every suffix fits into 63. A shortened name gets a hash of the whole name, so that names stay unique. */}}
{{- define "telemetry.fullname" -}}
{{- $name := default (ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) .Chart.IsRoot) .Values.fullnameOverride -}}
{{- if gt (len $name) 40 -}}
{{- printf "%s-%s" (trunc 31 $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- else -}}
{{- $name | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "telemetry.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "telemetry.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "telemetry.clusterName" -}}
{{- default .Release.Name .Values.clusterName -}}
{{- end }}

{{/* The four roles: key in the values, label, subcommand. */}}
{{- define "telemetry.components" -}}
streamer: {label: streamer, role: stream}
collector: {label: collector, role: collect}
apiGateway: {label: api-gateway, role: serve}
probe: {label: network-probe, role: probe}
{{- end }}

{{/* Labels. Selectors contain nothing that changes with a version. */}}

{{- define "telemetry.selectorLabels" -}}
app.kubernetes.io/name: {{ include "telemetry.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "telemetry.labels" -}}
{{- $labels := dict
  "app.kubernetes.io/name" (include "telemetry.name" .root)
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/managed-by" .root.Release.Service
  "app.kubernetes.io/part-of" "telemetry"
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- with .root.Chart.AppVersion }}{{- $_ := set $labels "app.kubernetes.io/version" . }}{{- end }}
{{- with .component }}{{- $_ := set $labels "app.kubernetes.io/component" . }}{{- end }}
{{- if eq (default "" .component) "network-probe" }}{{- $_ := set $labels "app" "network-probe" }}{{- end }}
{{- toYaml (merge $labels (default dict .extra) .root.Values.commonLabels) -}}
{{- end }}

{{/* Labels of pods: without versions, so that a new version of the chart alone does not replace pods. */}}
{{- define "telemetry.podLabels" -}}
{{- omit (include "telemetry.labels" . | fromYaml) "helm.sh/chart" "app.kubernetes.io/version" | toYaml -}}
{{- end }}

{{/* repository:tag or repository@digest. */}}
{{- define "telemetry.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* host:port, with brackets around an IPv6 address. */}}
{{- define "telemetry.hostPort" -}}
{{- if and (contains ":" .host) (not (hasPrefix "[" .host)) -}}
[{{ .host }}]:{{ int .port }}
{{- else -}}
{{ .host }}:{{ int .port }}
{{- end -}}
{{- end }}

{{/* Whether a list of variables has a name: "true" or "". */}}
{{- define "telemetry.hasEnv" -}}
{{- $name := .name -}}
{{- range .env }}{{- if eq .name $name }}true{{- end }}{{- end }}
{{- end }}

{{/* A configuration section as TOML. Strings, numbers, booleans and lists are written as JSON, which is valid TOML. */}}
{{- define "telemetry.toml" -}}
{{- $path := .path -}}
{{- $scalars := dict }}{{- $tables := dict -}}
{{- range $key, $value := .table -}}
{{- if kindIs "map" $value }}{{- $_ := set $tables $key $value }}{{- else if not (kindIs "invalid" $value) }}{{- $_ := set $scalars $key $value }}{{- end -}}
{{- end -}}
{{- if and $path $scalars }}
[{{ $path }}]
{{- end }}
{{- range $key := keys $scalars | sortAlpha }}
{{ $key }} = {{ get $scalars $key | toJson }}
{{- end }}
{{- range $key := keys $tables | sortAlpha }}
{{- include "telemetry.toml" (dict "path" (ternary $key (printf "%s.%s" $path $key) (empty $path)) "table" (get $tables $key)) }}
{{- end }}
{{- end }}

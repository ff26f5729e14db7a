{{/* The connections of a component to Redis and PostgreSQL: variables, volumes and mounts. Passwords and keys are files of a mounted
     Secret, which the program reads again when they change; the specification of a pod contains none of them. */}}

{{/* "true" when the connection to Redis uses TLS. */}}
{{- define "telemetry.redis.tls" -}}
{{- if or .Values.redis.tls.enabled .Values.redis.external.tls }}true{{ end -}}
{{- end }}

{{/* "true" when the values set the address of Redis. */}}
{{- define "telemetry.redis.configured" -}}
{{- if or .Values.redis.enabled .Values.redis.external.host }}true{{ end -}}
{{- end }}

{{- define "telemetry.redis.url" -}}
{{- $host := .Values.redis.external.host -}}
{{- $port := .Values.redis.external.port -}}
{{- if .Values.redis.enabled -}}
{{- $host = printf "%s-redis" (include "telemetry.fullname" .) }}{{- $port = 6379 -}}
{{- else if .Values.redis.external.externalNameService -}}
{{- $host = .Values.redis.external.externalNameService -}}
{{- end -}}
{{ ternary "rediss" "redis" (eq (include "telemetry.redis.tls" .) "true") }}://{{ include "telemetry.hostPort" (dict "host" $host "port" $port) }}
{{- end }}

{{/* Secret and key of the password for Redis: {name, key}, or nothing. */}}
{{- define "telemetry.redis.password" -}}
{{- $made := printf "%s-redis" (include "telemetry.fullname" .) -}}
{{- $from := ternary .Values.redis.auth .Values.redis.external .Values.redis.enabled -}}
{{- if $from.existingSecret -}}
name: {{ $from.existingSecret | quote }}
key: {{ $from.existingSecretPasswordKey | quote }}
{{- else if $from.password -}}
name: {{ $made }}
key: password
{{- end -}}
{{- end }}

{{/* Secret with certificates for Redis, and its keys: {name, ca, cert, key}, or nothing. */}}
{{- define "telemetry.redis.tlsSecret" -}}
{{- $tls := .Values.redis.tls -}}
{{- if eq (include "telemetry.redis.tls" .) "true" -}}
{{- if $tls.existingSecret -}}
name: {{ $tls.existingSecret | quote }}
ca: {{ $tls.existingSecretKeys.ca | quote }}
cert: {{ $tls.existingSecretKeys.cert | quote }}
key: {{ $tls.existingSecretKeys.key | quote }}
{{- else if $tls.certificate.create -}}
name: {{ include "telemetry.fullname" . }}-redis-tls
{{- /* Issuers with a public authority provide no ca.crt. */}}
ca: {{ $tls.existingSecretKeys.ca | quote }}
cert: tls.crt
key: tls.key
{{- else if or $tls.ca $tls.cert -}}
name: {{ include "telemetry.fullname" . }}-redis-tls
ca: {{ ternary "ca.crt" "" (not (empty $tls.ca)) | quote }}
cert: {{ ternary "tls.crt" "" (not (empty $tls.cert)) | quote }}
key: {{ ternary "tls.key" "" (not (empty $tls.cert)) | quote }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* {env: […], volumes: […], mounts: […]} for Redis. */}}
{{- define "telemetry.redis" -}}
{{- $env := list }}{{- $volumes := list }}{{- $mounts := list -}}
{{- $external := .Values.redis.external -}}
{{- if include "telemetry.redis.configured" . -}}
{{- $env = append $env (dict "name" "REDIS_URL" "value" (include "telemetry.redis.url" .)) -}}
{{- if not .Values.redis.enabled -}}
{{- if and $external.existingSecret $external.existingSecretUsernameKey -}}
{{- $ref := dict "name" $external.existingSecret "key" $external.existingSecretUsernameKey -}}
{{- $env = append $env (dict "name" "REDIS_USERNAME" "valueFrom" (dict "secretKeyRef" $ref)) -}}
{{- else if $external.username -}}
{{- $env = append $env (dict "name" "REDIS_USERNAME" "value" $external.username) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with include "telemetry.redis.password" . | fromYaml -}}
{{- $env = append $env (dict "name" "REDIS_PASSWORD_FILE" "value" "/etc/telemetry/redis/password") -}}
{{- $items := list (dict "key" .key "path" "password") -}}
{{- $volumes = append $volumes (dict "name" "redis" "secret" (dict "secretName" .name "items" $items "defaultMode" 0444)) -}}
{{- $mounts = append $mounts (dict "name" "redis" "mountPath" "/etc/telemetry/redis" "readOnly" true) -}}
{{- end -}}
{{- with include "telemetry.redis.tlsSecret" . | fromYaml -}}
{{- $items := list -}}
{{- if .ca -}}
{{- $items = append $items (dict "key" .ca "path" "ca.crt") -}}
{{- $env = append $env (dict "name" "REDIS_CA_CERT" "value" "/etc/telemetry/redis-tls/ca.crt") -}}
{{- end -}}
{{- /* With redis.enabled, certificate and key belong to the server: clients do not get them. */}}
{{- if and .cert (not $.Values.redis.enabled) -}}
{{- $items = concat $items (list (dict "key" .cert "path" "tls.crt") (dict "key" .key "path" "tls.key")) -}}
{{- $env = append $env (dict "name" "REDIS_CLIENT_CERT" "value" "/etc/telemetry/redis-tls/tls.crt") -}}
{{- $env = append $env (dict "name" "REDIS_CLIENT_KEY" "value" "/etc/telemetry/redis-tls/tls.key") -}}
{{- end -}}
{{- if $items -}}
{{- $volumes = append $volumes (dict "name" "redis-tls" "secret" (dict "secretName" .name "items" $items "defaultMode" 0444)) -}}
{{- $mounts = append $mounts (dict "name" "redis-tls" "mountPath" "/etc/telemetry/redis-tls" "readOnly" true) -}}
{{- end -}}
{{- end -}}
{{- if include "telemetry.redis.tls" . -}}
{{- $name := .Values.redis.tls.serverName -}}
{{- if and (not $name) (not .Values.redis.enabled) $external.externalNameService }}{{- $name = $external.host }}{{- end -}}
{{- with $name }}{{- $env = append $env (dict "name" "REDIS_TLS_SERVER_NAME" "value" .) }}{{- end -}}
{{- end -}}
{{- dict "env" $env "volumes" $volumes "mounts" $mounts | toYaml -}}
{{- end }}

{{- define "telemetry.postgres.configured" -}}
{{- if or .Values.postgresql.enabled .Values.postgresql.external.host }}true{{ end -}}
{{- end }}

{{/* Secret and key of the password for PostgreSQL: {name, key}, or nothing. */}}
{{- define "telemetry.postgres.password" -}}
{{- $from := ternary .Values.postgresql.auth .Values.postgresql.external .Values.postgresql.enabled -}}
{{- if $from.existingSecret -}}
name: {{ $from.existingSecret | quote }}
key: {{ $from.existingSecretPasswordKey | quote }}
{{- else if $from.password -}}
name: {{ include "telemetry.fullname" . }}-postgresql
key: password
{{- end -}}
{{- end }}

{{/* {env: […], volumes: […], mounts: […]} for PostgreSQL. */}}
{{- define "telemetry.postgres" -}}
{{- $env := list }}{{- $volumes := list }}{{- $mounts := list -}}
{{- if include "telemetry.postgres.configured" . -}}
{{- $external := .Values.postgresql.external -}}
{{- $host := $external.host }}{{- $port := $external.port }}{{- $query := list (printf "sslmode=%s" $external.sslmode) -}}
{{- $of := $external -}}
{{- if .Values.postgresql.enabled -}}
{{- $of = .Values.postgresql.auth }}{{- $host = printf "%s-postgresql" (include "telemetry.fullname" .) }}{{- $port = 5432 }}{{- $query = list "sslmode=disable" -}}
{{- end -}}
{{- if not .Values.postgresql.enabled -}}
{{- $keys := $external.tls.existingSecretKeys }}{{- $secret := $external.tls.existingSecret -}}
{{- if and $external.tls.ca (not $secret) }}{{- $secret = printf "%s-postgresql-tls" (include "telemetry.fullname" .) }}{{- $keys = dict "ca" "ca.crt" }}{{- end -}}
{{- if $secret -}}
{{- $items := list -}}
{{- range $what, $name := dict "ca" "sslrootcert" "cert" "sslcert" "key" "sslkey" -}}
{{- with get $keys $what -}}
{{- $file := get (dict "ca" "ca.crt" "cert" "tls.crt" "key" "tls.key") $what -}}
{{- $items = append $items (dict "key" . "path" $file) -}}
{{- $query = append $query (printf "%s=/etc/telemetry/postgresql-tls/%s" $name $file) -}}
{{- end -}}
{{- end -}}
{{- $volumes = append $volumes (dict "name" "postgresql-tls" "secret" (dict "secretName" $secret "items" $items "defaultMode" 0444)) -}}
{{- $mounts = append $mounts (dict "name" "postgresql-tls" "mountPath" "/etc/telemetry/postgresql-tls" "readOnly" true) -}}
{{- end -}}
{{- end -}}
{{- $url := printf "postgres://%s@%s/%s?%s" ($of.username | urlquery | replace "+" "%20") (include "telemetry.hostPort" (dict "host" $host "port" $port)) ($of.database | urlquery | replace "+" "%20") (join "&" $query) -}}
{{- $env = append $env (dict "name" "DATABASE_URL" "value" $url) -}}
{{- with include "telemetry.postgres.password" . | fromYaml -}}
{{- $env = append $env (dict "name" "DB_PASSWORD_FILE" "value" "/etc/telemetry/postgresql/password") -}}
{{- $volumes = append $volumes (dict "name" "postgresql" "secret" (dict "secretName" .name "items" (list (dict "key" .key "path" "password")) "defaultMode" 0444)) -}}
{{- $mounts = append $mounts (dict "name" "postgresql" "mountPath" "/etc/telemetry/postgresql" "readOnly" true) -}}
{{- end -}}
{{- end -}}
{{- dict "env" $env "volumes" $volumes "mounts" $mounts | toYaml -}}
{{- end }}

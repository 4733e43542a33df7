{{/* SPDX-License-Identifier: Apache-2.0 */}}
{{- define "memkv.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "memkv.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "memkv.labels" -}}
{{ include "memkv.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "memkv.config" -}}
network:
  address: 0.0.0.0:{{ .Values.service.dataPort }}
  admin_address: 0.0.0.0:{{ .Values.service.adminPort }}
  auth_key: /etc/memkv/secret/auth-key
  peers:
    {{- range $index := until (int .Values.replicas) }}
    - {{ include "memkv.fullname" $ }}-{{ $index }}.{{ include "memkv.fullname" $ }}:{{ $.Values.service.dataPort }}
    {{- end }}
storage:
  mode: {{ .Values.storage.mode }}
  durability: {{ .Values.storage.durability }}
  drives:
    {{- range .Values.drives }}
    - {path: /data/{{ .name }}/memkv, capacity: {{ .capacity | quote }}}
    {{- end }}
{{- with .Values.memoryMaxSize }}
memory:
  max_size: {{ . }}
{{- end }}
{{- with .Values.namespaces }}
namespaces:
  {{- toYaml . | nindent 2 }}
{{- end }}
license: /etc/memkv/secret/license
license_keys: /etc/memkv/license-keys
log: {level: {{ .Values.logLevel }}, format: json}
{{- end }}

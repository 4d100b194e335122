{{- define "cn-clip.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "cn-clip.selector" -}}
app.kubernetes.io/name: cnclip-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cn-clip.labels" -}}
{{ include "cn-clip.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "cn-clip.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "cn-clip.name" .) }}
{{- end }}

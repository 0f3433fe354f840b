{{- /* One endpoint of a PodMonitor or a ServiceMonitor: of a dict with the monitor's values and the scheme. */ -}}
{{- define "stallwatch.scrapeEndpoint" -}}
port: http
path: /metrics
{{- if eq .scheme "https" }}
scheme: https
{{- end }}
{{- with .monitor }}
{{- with .tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .authorization }}
authorization:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
honorLabels: {{ .honorLabels }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

// What a dashboard may hold, by Grafana's own types: its panels by their kind, with the options and field settings of each,
// which Grafana's `Dashboard` leaves open. The test appends the dashboards as constants of these types.
import type { Dashboard, FieldConfig, Panel, AnnotationQuery, RowPanel } from "@grafana/schema";
import type { Options as BarGauge } from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type { Options as Stat } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type {
  FieldConfig as TimelineFields,
  Options as Timeline,
} from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type {
  FieldConfig as TableFields,
  Options as Table,
} from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type {
  FieldConfig as GraphFields,
  Options as Graph,
} from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has the values of enums, not their names.
type Plain<T> = unknown extends T
  ? T
  : T extends string
    ? `${T}`
    : T extends number | boolean | null | undefined
      ? T
      : T extends Array<infer Item>
        ? Array<Plain<Item>>
        : { [Key in keyof T]: Plain<T[Key]> };

// Grafana's Prometheus data source keeps its types to itself: these are its fields that we use.
interface PrometheusQuery {
  datasource: { type: "prometheus"; uid: string };
  editorMode: "code" | "builder";
  expr: string;
  format: "time_series" | "table" | "heatmap";
  instant: boolean;
  range: boolean;
  legendFormat?: string;
  refId: string;
}
interface PrometheusAnnotation {
  expr: string;
  target: { expr: string; refId: string };
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
}
interface Link {
  title: string;
  url: string;
  targetBlank: boolean;
}

interface Kinds {
  bargauge: [BarGauge, {}];
  stat: [Stat, {}];
  "state-timeline": [Timeline, TimelineFields];
  table: [Table, TableFields];
  timeseries: [Graph, GraphFields];
}
export type Settings<Kind extends keyof Kinds> = Plain<Omit<FieldConfig, "custom" | "links">> & {
  links?: Link[];
  custom?: Plain<Partial<Kinds[Kind][1]>>;
};
type PanelOf<Kind extends keyof Kinds> = Plain<
  Omit<Panel, "options" | "targets" | "type" | "fieldConfig" | "title" | "description">
> & {
  type: Kind;
  title: string;
  description: string;
  options: Plain<Kind extends "table" ? Partial<Kinds[Kind][0]> : Kinds[Kind][0]>;
  targets: PrometheusQuery[];
  fieldConfig: {
    defaults: Settings<Kind>;
    overrides: Array<{
      matcher: { id: string; options: string };
      properties: Array<{ id: string; value: unknown }>;
    }>;
  };
};
type AnyPanel = { [Kind in keyof Kinds]: PanelOf<Kind> }[keyof Kinds];

export type Board = Plain<Omit<Dashboard, "panels" | "annotations">> & {
  panels: Array<AnyPanel | Plain<RowPanel>>;
  annotations: { list: Array<Plain<Omit<AnnotationQuery, "target">> & PrometheusAnnotation> };
};

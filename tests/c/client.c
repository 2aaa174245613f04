/* A client on libgearman. It prints whatever it is told.
 *
 *     client PORT [-e] [-n NAMESPACE] [-t MILLISECONDS] COMMAND [ARGUMENT ...]
 *
 * -e asks the server for exceptions. The commands are in the table at the end. */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libgearman/gearman.h>

enum { TIMEOUT = 8000 };

static gearman_client_st *client;

static int outcome(gearman_return_t ret)
{
    printf("%s\n", gearman_strerror(ret));
    return 0;
}

static void show(const char *what, const void *data, size_t size)
{
    printf("%s [", what);
    if (size)
        fwrite(data, 1, size, stdout);
    printf("]\n");
}

static gearman_return_t show_task(const char *what, gearman_task_st *task)
{
    printf("%s ", gearman_task_unique(task));
    show(what, gearman_task_data(task), gearman_task_data_size(task));
    return GEARMAN_SUCCESS;
}

static gearman_return_t on_created(gearman_task_st *task)
{
    printf("%s created %s\n", gearman_task_unique(task), gearman_task_job_handle(task));
    return GEARMAN_SUCCESS;
}

static gearman_return_t on_data(gearman_task_st *task)
{
    return show_task("data", task);
}

static gearman_return_t on_warning(gearman_task_st *task)
{
    return show_task("warning", task);
}

/* This is called for a job's WORK_STATUS, and for the answer to a question. */
static gearman_return_t on_status(gearman_task_st *task)
{
    printf("%s status known %d running %d %u/%u\n", gearman_task_unique(task), gearman_task_is_known(task),
           gearman_task_is_running(task), gearman_task_numerator(task), gearman_task_denominator(task));
    return GEARMAN_SUCCESS;
}

static gearman_return_t on_complete(gearman_task_st *task)
{
    return show_task("complete", task);
}

static gearman_return_t on_exception(gearman_task_st *task)
{
    return show_task("exception", task);
}

static gearman_return_t on_fail(gearman_task_st *task)
{
    printf("%s fail\n", gearman_task_unique(task));
    return GEARMAN_SUCCESS;
}

static int command_do(char **arguments)
{
    __typeof__(&gearman_client_do) submit = gearman_client_do;
    if (!strcmp(arguments[0], "high"))
        submit = gearman_client_do_high;
    else if (!strcmp(arguments[0], "low"))
        submit = gearman_client_do_low;
    for (;;) {
        size_t size = 0;
        gearman_return_t ret;
        char *data = submit(client, arguments[1], arguments[2], arguments[3], strlen(arguments[3]), &size, &ret);
        if (ret == GEARMAN_WORK_STATUS) {
            uint32_t numerator, denominator;
            gearman_client_do_status(client, &numerator, &denominator);
            printf("%u/%u\n", numerator, denominator);
        }
        show(gearman_strerror(ret), data, size);
        free(data);
        if (ret != GEARMAN_WORK_DATA && ret != GEARMAN_WORK_WARNING && ret != GEARMAN_WORK_STATUS)
            return 0;
    }
}

static int command_background(char **arguments)
{
    __typeof__(&gearman_client_do_background) submit = gearman_client_do_background;
    if (!strcmp(arguments[0], "high"))
        submit = gearman_client_do_high_background;
    else if (!strcmp(arguments[0], "low"))
        submit = gearman_client_do_low_background;
    gearman_job_handle_t handle;
    gearman_return_t ret = submit(client, arguments[1], arguments[2], arguments[3], strlen(arguments[3]), handle);
    if (ret == GEARMAN_SUCCESS)
        printf("%s\n", handle);
    return outcome(ret);
}

static const struct {
    const char *name;
    __typeof__(&gearman_client_add_task) add;
} KINDS[] = {
    {"normal", gearman_client_add_task},
    {"high", gearman_client_add_task_high},
    {"low", gearman_client_add_task_low},
    {"background", gearman_client_add_task_background},
    {"high_background", gearman_client_add_task_high_background},
    {"low_background", gearman_client_add_task_low_background},
};

static gearman_return_t add_task(char **arguments)
{
    gearman_return_t ret = GEARMAN_INVALID_ARGUMENT;
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (!strcmp(arguments[0], KINDS[i].name))
            KINDS[i].add(client, NULL, NULL, arguments[1], arguments[2], arguments[3], strlen(arguments[3]), &ret);
    return ret;
}

static void set_callbacks(void)
{
    gearman_client_set_created_fn(client, on_created);
    gearman_client_set_data_fn(client, on_data);
    gearman_client_set_warning_fn(client, on_warning);
    gearman_client_set_status_fn(client, on_status);
    gearman_client_set_complete_fn(client, on_complete);
    gearman_client_set_exception_fn(client, on_exception);
    gearman_client_set_fail_fn(client, on_fail);
}

static int command_tasks(char **arguments)
{
    set_callbacks();
    for (; *arguments; arguments += 4) {
        gearman_return_t ret = add_task(arguments);
        if (ret != GEARMAN_SUCCESS)
            return outcome(ret);
    }
    return outcome(gearman_client_run_tasks(client));
}

static int show_result(gearman_task_st *task)
{
    if (!task) {
        printf("no task: %s\n", gearman_strerror(gearman_client_error_code(client)));
        return 0;
    }
    gearman_result_st *result = gearman_task_result(task);
    printf("%s known %d running %d\n", gearman_task_job_handle(task), gearman_task_is_known(task),
           gearman_task_is_running(task));
    if (result)
        show("result", gearman_result_value(result), gearman_result_size(result));
    return outcome(gearman_task_return(task));
}

static gearman_task_attr_t attributes(const char *kind)
{
    if (!strcmp(kind, "background"))
        return gearman_task_attr_init_background(GEARMAN_JOB_PRIORITY_NORMAL);
    if (!strcmp(kind, "low background"))
        return gearman_task_attr_init_background(GEARMAN_JOB_PRIORITY_LOW);
    if (!strcmp(kind, "past"))
        return gearman_task_attr_init_epoch(time(NULL) - 10, GEARMAN_JOB_PRIORITY_NORMAL);
    if (!strcmp(kind, "future"))
        return gearman_task_attr_init_epoch(time(NULL) + 1000, GEARMAN_JOB_PRIORITY_NORMAL);
    return gearman_task_attr_init(!strcmp(kind, "high") ? GEARMAN_JOB_PRIORITY_HIGH : GEARMAN_JOB_PRIORITY_NORMAL);
}

static int command_execute(char **arguments)
{
    gearman_task_attr_t how = attributes(arguments[0]);
    gearman_argument_t workload = gearman_argument_make(NULL, 0, arguments[3], strlen(arguments[3]));
    return show_result(gearman_execute(client, arguments[1], strlen(arguments[1]), arguments[2], strlen(arguments[2]),
                                       &how, &workload, NULL));
}

static int command_partition(char **arguments)
{
    gearman_task_attr_t how = attributes(arguments[0]);
    gearman_argument_t workload = gearman_argument_make(NULL, 0, arguments[4], strlen(arguments[4]));
    return show_result(gearman_execute_by_partition(client, arguments[1], strlen(arguments[1]), arguments[2],
                                                    strlen(arguments[2]), arguments[3], strlen(arguments[3]), &how,
                                                    &workload, NULL));
}

static int command_status(char **arguments)
{
    bool known, running;
    uint32_t numerator, denominator;
    gearman_return_t ret =
        gearman_client_job_status(client, arguments[0], &known, &running, &numerator, &denominator);
    printf("known %d running %d %u/%u\n", known, running, numerator, denominator);
    return outcome(ret);
}

static int command_unique_status(char **arguments)
{
    gearman_status_t status = gearman_client_unique_status(client, arguments[0], strlen(arguments[0]));
    printf("known %d running %d %u/%u\n", gearman_status_is_known(status), gearman_status_is_running(status),
           gearman_status_numerator(status), gearman_status_denominator(status));
    return outcome(gearman_status_return(status));
}

static int command_statuses(char **arguments)
{
    set_callbacks();
    gearman_return_t ret;
    gearman_client_add_task_status(client, NULL, NULL, arguments[0], &ret);
    if (ret == GEARMAN_SUCCESS)
        gearman_client_add_task_status_by_unique(client, NULL, arguments[1], &ret);
    return outcome(ret == GEARMAN_SUCCESS ? gearman_client_run_tasks(client) : ret);
}

static int command_cancel(char **arguments)
{
    return outcome(gearman_client_cancel_job(client, arguments[0]));
}

static int command_echo(char **arguments)
{
    return outcome(gearman_client_echo(client, arguments[0], strlen(arguments[0])));
}

static int command_option(char **arguments)
{
    bool accepted = gearman_client_set_server_option(client, arguments[0], strlen(arguments[0]));
    printf("%d %s\n", accepted, gearman_strerror(gearman_client_error_code(client)));
    return outcome(gearman_client_echo(client, "still there", 11));
}

static const struct {
    const char *name;
    int (*run)(char **arguments);
} COMMANDS[] = {
    {"do", command_do},                       /* normal|high|low FUNCTION UNIQUE WORKLOAD */
    {"background", command_background},       /* normal|high|low FUNCTION UNIQUE WORKLOAD */
    {"tasks", command_tasks},                 /* (KIND FUNCTION UNIQUE WORKLOAD) ... */
    {"execute", command_execute},             /* KIND FUNCTION UNIQUE WORKLOAD */
    {"partition", command_partition},         /* KIND FUNCTION REDUCER UNIQUE WORKLOAD */
    {"status", command_status},               /* HANDLE */
    {"unique_status", command_unique_status}, /* UNIQUE */
    {"statuses", command_statuses},           /* HANDLE UNIQUE */
    {"cancel", command_cancel},               /* HANDLE */
    {"echo", command_echo},                   /* DATA */
    {"option", command_option},               /* NAME */
};

static int run(char **arguments)
{
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        if (*arguments && !strcmp(*arguments, COMMANDS[i].name))
            return COMMANDS[i].run(arguments + 1);
    fprintf(stderr, "what is %s?\n", *arguments ? *arguments : "nothing");
    return 2;
}

static void set_namespace(const char *name)
{
    gearman_client_set_namespace(client, name, strlen(name));
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    client = gearman_client_create(NULL);
    gearman_client_set_timeout(client, TIMEOUT);
    if (gearman_client_add_server(client, "127.0.0.1", atoi(argv[1])) != GEARMAN_SUCCESS)
        return 2;
    char **rest = argv + 2;
    for (; *rest && **rest == '-'; rest++) {
        if (!strcmp(*rest, "-e"))
            gearman_client_set_server_option(client, "exceptions", strlen("exceptions"));
        else if (!strcmp(*rest, "-n") && rest[1])
            set_namespace(*++rest);
        else if (!strcmp(*rest, "-t") && rest[1])
            gearman_client_set_timeout(client, atoi(*++rest));
    }
    int status = run(rest);
    gearman_client_free(client);
    return status;
}
